// The near duplicates of the open image: what an audit keeps together, and what to look at where labels differ.
import { toast, useAnswer } from "./api";
import { choose } from "./selection";
import { go } from "./state";
import type { NearAnswer } from "./types";
import { count, images, Picture, Problem, title, withCode } from "./words";

export function Near({ open }: { open: string }) {
  const { value, error } = useAnswer<NearAnswer>(`/rows/${open}/duplicates`);
  if (error) return <section><h3>Near duplicates</h3><Problem error={error} /></section>;
  // those of the image before are none of this one's
  if (!value || value.image !== open) return <section><h3>Near duplicates</h3><p class="muted">Looking …</p></section>;
  const other = value.images.filter((each) => each.other_label).length;
  return (
    <section aria-label="Near duplicates">
      <h3>Near duplicates {value.total > 0 && <span class="muted">{count(value.total)}</span>}</h3>
      {value.total === 0 && <p class="muted">None. What counts: {withCode(value.rule)}.</p>}
      {value.total > 0 && (
        <>
          {other > 0 && <p class="near-note">{count(other)} of them {other === 1 ? "has" : "have"} another label.</p>}
          <ul class="strip near">
            {value.images.map((row) => (
              <li key={`${row.shard}/${row.index}`}>
                <button type="button" class="thumb" title={title(row)} aria-label={`${title(row)}, ${row.other_label ? "another label, " : ""}cosine ${row.cosine.toFixed(3)}, hashes differ in ${row.bits} of 64 bits`}
                  onClick={() => go({ open: `${row.shard}/${row.index}` })}><Picture row={row} size={128} /></button>
                <span class={row.other_label ? "other" : "muted"} aria-hidden="true">{row.other_label ? row.class_name ?? row.label ?? "no label" : row.bits === 0 ? "same hash" : row.cosine.toFixed(3)}</span>
              </li>
            ))}
          </ul>
          {value.images.length < value.total && <p class="muted">The {value.images.length} most alike; <code>{value.command}</code> finds all of them in the run.</p>}
          <button type="button" class="link" onClick={() => { choose(value.images); toast.set({ text: `${images(value.images.length)} chosen: press t to tag them.` }); }}>choose them, to tag</button>
          <details><summary class="muted">What counts</summary><p class="muted">{withCode(value.rule)}.</p></details>
        </>
      )}
    </section>
  );
}
