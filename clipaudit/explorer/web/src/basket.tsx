// What people tagged, who and why, and the lists that other tools take.
import { API, changed, hasToken, post, toast, useAnswer } from "./api";
import { go, NO_QUESTION, question, type State } from "./state";
import type { RunFacts, TagFacts } from "./types";
import { Copyable, count, images, Loading, Missing, Problem, withCode } from "./words";

export async function undo(event: string): Promise<void> {
  try {
    changed(await post<TagFacts>("/tags/undo", { event, author: localStorage.getItem("clipaudit-author") ?? "" }));
    toast.set({ text: "Undone." });
  } catch (error) {
    toast.set({ text: (error as Error).message });
  }
}

export function Basket({ state, run }: { state: State; run: RunFacts | null }) {
  const { value, error } = useAnswer<TagFacts>("/tags");
  if (error) return <Problem error={error} />;
  if (!value) return <Loading what="Reading the tags …" />;
  const tags = Object.entries(value.counts);
  const only = /^tag\.([\w-]+) = true$/.exec(state.where)?.[1];
  const suffix = only ? `?tag=${encodeURIComponent(only)}` : "";
  return (
    <>
      <header class="panel-head">
        <h2>Basket</h2>
        <p class="muted">{value.images ? `${images(value.images)} with a tag.` : "No image is tagged yet."} Tags are columns: filter by <code>{run?.tags_column ?? "tags"} is not null</code>.</p>
      </header>
      {!value.write && run && <Missing command={run.commands.write}>The page only reads. To tag images, start it with --write:</Missing>}
      {value.write && !hasToken() && <Missing>This window may not write: open the address that <code>clipaudit explore</code> printed.</Missing>}
      {value.damaged > 0 && <Problem error={`${count(value.damaged)} lines of ${value.file} cannot be read and are left as they are.`} />}
      {value.foreign > 0 && <Problem error={`${images(value.foreign)} of ${value.file} are not in this run, or are other images now: their tags are left out.`} />}
      {tags.length > 0 && (
        <>
          <ul class="tag-list">
            {tags.map(([tag, number]) => (
              <li key={tag}>
                <button type="button" class="value" aria-pressed={only === tag} onClick={() => go({ ...NO_QUESTION, where: only === tag ? `${run?.tags_column ?? "tags"} is not null` : `tag.${tag} = true`, sort: "", open: "" })}>
                  <span class="name">{tag}</span><span class="number">{count(number)}</span>
                </button>
              </li>
            ))}
          </ul>
          <section class="exports">
            <h3>Download {only ? `“${only}”` : "what is tagged"}</h3>
            <ul>
              <li><a href={`${API}/export/exclude.txt${suffix}`} download>exclude.txt</a><span class="muted">images to leave out, one SHARD/KEY a line</span></li>
              <li><a href={`${API}/export/review.csv${suffix}`} download>review.csv</a><span class="muted">every tag with author, reason and time</span></li>
              <li>{value.weights_missing ? <><span>weights.parquet</span><span class="muted">{withCode(value.weights_missing)}</span></>
                : <><a href={`${API}/export/weights.parquet${suffix}`} download>weights.parquet</a><span class="muted">the report's group weights, 0 for {only ? `what is tagged “${only}”` : "tagged images"}</span></>}</li>
            </ul>
          </section>
          <details>
            <summary>Make the tags a column of the run</summary>
            <p>Then every command may filter and audit by them. Download <a href={`${API}/export/tags.jsonl`} download>tags.jsonl</a>, then:</p>
            <Copyable text={run?.commands.columns ?? "clipaudit columns add RUN tags.jsonl"} name="command" />
          </details>
        </>
      )}
      <section class="exports">
        <h3>Download the wall as it is</h3>
        <ul><li><a href={`${API}/export/keys.txt?${question(state)}`} download>keys.txt</a><span class="muted">all its images in order, one SHARD/KEY a line</span></li></ul>
      </section>
      {value.events.length > 0 && (
        <section>
          <h3>Steps {value.write && hasToken() && <button type="button" class="link" onClick={() => void undo(value.events[0]!.id)}>undo the last</button>}</h3>
          <ol class="events">
            {value.events.map((event) => (
              <li key={event.id}>
                <span>{event.removes ? "took" : "gave"} <span class="pill">{event.tag}</span> {event.removes ? "from" : "to"} {images(event.images)}</span>
                {event.reason && <q>{event.reason}</q>}
                <small class="muted">{event.author || "nobody named"} · {event.time.replace("T", " ").slice(0, 16)}</small>
              </li>
            ))}
          </ol>
        </section>
      )}
      {value.file && <p class="muted file">Kept in {value.file}</p>}
    </>
  );
}

