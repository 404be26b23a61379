// Where answerers err, in words, and labels that the other images contradict: each with its images.
import { useAnswer } from "./api";
import { conditions, go, NO_QUESTION, type State } from "./state";
import type { ErrorSlice, MistakesAnswer } from "./types";
import { count, images, interval, Loading, Missing, percent, Problem, WHO } from "./words";

export function Mistakes({ state }: { state: State }) {
  const { value, error } = useAnswer<MistakesAnswer>("/mistakes");
  if (error) return <Problem error={error} />;
  if (!value) return <Loading what="Reading the report …" />;
  if (!value.answerers) return <Missing command={value.command}>{value.missing} It takes a minute and says where answers are wrong:</Missing>;
  const { answerers, labels } = value;
  const show = (where: string, sort = "") => go({ ...NO_QUESTION, screen: "mistakes", where, sort, group: "", open: "" });
  const shown = (where: string | null) => where !== null && conditions(state.where).join() === conditions(where).join();
  return (
    <>
      <header class="panel-head">
        <h2>Mistakes</h2>
        <p class="muted">What images that are answered wrong have in common, and labels that may be wrong themselves.</p>
      </header>
      {answerers.map((each) => (
        <section key={each.name}>
          <h3>{WHO[each.name] ?? each.name}</h3>
          <p>{count(each.wrong)} of {images(each.images)} wrong. {each.slices.length === 0 && "Nothing sets them apart: the errors look random."}</p>
          {each.slices.map((slice) => <Slice key={slice.id} slice={slice} show={show} shown={shown} />)}
        </section>
      ))}
      {answerers.length === 0 && <p class="muted">The report has looked for no error slices: nobody but CLIP answered, or there are no labels.</p>}
      {labels && (
        <section>
          <h3>Labels to look at</h3>
          <p>{labels.sentence}</p>
          {labels.pairs.length > 0 && <ul>{labels.pairs.map((pair) => <li key={`${pair.label} ${pair.looks_like}`}>{images(pair.images)} labelled {pair.label} {pair.images === 1 ? "looks" : "look"} like {pair.looks_like}</li>)}</ul>}
          {labels.where && labels.listed > 0 && <div class="buttons"><button type="button" class="primary" aria-pressed={shown(labels.where)} onClick={() => show(labels.where!, labels.sort)}>Show {labels.listed === 1 ? "it" : `all ${count(labels.listed)}`}, the most doubtful first</button></div>}
        </section>
      )}
    </>
  );
}

function Slice({ slice, show, shown }: { slice: ErrorSlice; show: (where: string) => void; shown: (where: string | null) => boolean }) {
  const { wrong, others } = slice;
  return (
    <article class="card slice">
      <h4>{slice.description}</h4>
      <dl class="compare">
        <div><dt>wrong here</dt><dd>{percent(wrong.value)} <small>{interval(wrong, "percent")}</small></dd><span class="meter bad" style={{ width: `${100 * (wrong.value ?? 0)}%` }} aria-hidden="true" /></div>
        <div><dt>other {slice.class_name}</dt><dd>{percent(others.value)} <small>{interval(others, "percent")}</small></dd><span class="meter" style={{ width: `${100 * (others.value ?? 0)}%` }} aria-hidden="true" /></div>
      </dl>
      <p class="muted">{percent(slice.share_of_errors)} of the class's errors{slice.taken_for[0] && `; mostly taken for ${slice.taken_for[0].class_name}`}.{slice.no_good_word && " No text says well what they share: look at them."}</p>
      {slice.where ? (
        <div class="buttons">
          <button type="button" aria-pressed={shown(slice.where_wrong)} onClick={() => show(slice.where_wrong!)}>The wrong ones</button>
          <button type="button" aria-pressed={shown(slice.where)} onClick={() => show(slice.where!)}>All {count(slice.images)}</button>
          <button type="button" aria-pressed={shown(slice.class_filter)} onClick={() => show(slice.class_filter)}>The class</button>
        </div>
      ) : <p class="muted">The report's slices.csv is not beside it: its images cannot be shown.</p>}
      {slice.same.length > 0 && <details><summary>The same images in other words</summary><p>{slice.same.join("; ")}</p></details>}
    </article>
  );
}
