// All images: what the columns hold, each value a click away from the filter.
import { equals, go, holds, turned, type State } from "./state";
import type { ColumnFacts, RunFacts } from "./types";
import { count, images, short } from "./words";

const QUIET = new Set(["shard_id", "index", "key"]);

export function Facets({ state, columns, run }: { state: State; columns: ColumnFacts[]; run: RunFacts | null }) {
  const listed = columns.filter((each) => !QUIET.has(each.name) && (each.values.length > 0 || each.low !== null) && each.distinct !== 1);
  const skipped = Object.entries(run?.skipped ?? {});
  return (
    <>
      <header class="panel-head">
        <h2>Images</h2>
        {run && <p class="muted">{images(run.rows)} · {run.heads.length} heads · model {run.model}</p>}
        {skipped.length > 0 && <p class="muted">Left out: {skipped.map(([reason, number]) => `${count(number)} ${reason.replaceAll("_", " ")}`).join(", ")}.</p>}
      </header>
      {listed.map((column) => {
        const most = Math.max(1, ...column.values.map((each) => each.count));
        return (
          <section class="facet" key={column.name}>
            <h3>{column.short}
              {column.low !== null && column.distinct > 50 && <span class="muted"> {short(column.low)} to {short(column.high!)}</span>}
              {column.missing > 0 && column.missing < (run?.rows ?? 0) && <span class="muted"> · {count(column.missing)} without</span>}
            </h3>
            {column.values.length > 0 && column.distinct <= 50 ? (
              <ul>
                {column.values.slice(0, 8).map((each) => {
                  const condition = equals(column, each.value);
                  return (
                    <li key={each.value}>
                      <button type="button" class="value" aria-pressed={holds(state.where, condition)} onClick={() => go({ where: turned(state.where, condition) })}>
                        <span class="meter" style={{ width: `${(100 * each.count) / most}%` }} aria-hidden="true" />
                        <span class="name">{each.name ?? each.value}</span>
                        <span class="number">{each.count ? count(each.count) : ""}</span>
                      </button>
                    </li>
                  );
                })}
                {column.distinct > 8 && <li class="muted">{count(column.distinct - 8)} more: type “{column.short} = ” in the filter</li>}
              </ul>
            ) : (
              <div class="buttons">
                <button type="button" onClick={() => go({ sort: `-${column.name}` })}>Highest first</button>
                <button type="button" onClick={() => go({ sort: column.name })}>Lowest first</button>
              </div>
            )}
          </section>
        );
      })}
    </>
  );
}
