// One question by two heads, or by two sets of them: both orders, and the images that they place furthest apart.
import { useAnswer } from "./api";
import { go, question, type State } from "./state";
import type { BesideAnswer, HeadsAnswer, RankedRow } from "./types";
import { count, Loading, Picture, Problem, title } from "./words";

export const EVERYTHING = "embedding";
const named = (heads: string[]) => (heads.length === 0 || heads[0] === EVERYTHING ? "the whole embedding" : heads.length > 3 ? `${heads.length} heads` : heads.join(", "));

/** Chooses what the other column is ordered by. */
export function BesideChoice({ state, none }: { state: State; none: string }) {
  const heads = useAnswer<HeadsAnswer>("/heads");
  const roles = [...new Set((heads.value?.heads ?? []).map((each) => each.role).filter((role): role is string => !!role))].sort();
  const of = (role: string) => heads.value!.heads.filter((each) => each.role === role).map((each) => each.head);
  const value = state.beside.length > 1 ? `role ${roles.find((role) => of(role).length === state.beside.length && of(role).every((head) => state.beside.includes(head))) ?? ""}` : state.beside[0] ?? "";
  return (
    <label class="stacked">{none}
      <select value={value} onChange={(event) => {
        const chosen = event.currentTarget.value;
        go({ beside: chosen.startsWith("role ") ? of(chosen.slice(5)) : chosen ? [chosen] : [], open: "" });
      }}>
        <option value="">nothing</option>
        <option value={EVERYTHING}>the whole embedding</option>
        {roles.map((role) => <option key={role} value={`role ${role}`}>{role}: {of(role).length} heads</option>)}
        {(heads.value?.heads ?? []).map((each) => <option key={each.head} value={each.head}>{each.head}{each.role ? ` · ${each.role}` : each.texts[0] ? ` · ${each.texts[0].text.slice(0, 40)}` : ""}</option>)}
      </select>
    </label>
  );
}

/** In place of the wall. */
export function Beside({ state }: { state: State }) {
  const given = question({ ...state, sort: "", group: "" });
  for (const head of state.beside) given.append("other", head);
  const { value, error, loading } = useAnswer<BesideAnswer>(`/beside?${given}&size=24`);
  if (error) return <div class="wall"><Problem error={error} /></div>;
  if (!value) return <div class="wall"><Loading what="Scoring every image. The first question loads the model …" /></div>;
  const names = [named(state.head), named(state.beside)] as const;
  const alike = value.correlation === null ? "" : value.correlation > 0.8 ? "order the images alike" : value.correlation > 0.4 ? "order the images partly alike" : value.correlation > -0.2 ? "order the images differently" : "order the images the other way round";
  return (
    <div class="wall beside" aria-busy={loading}>
      <p class="headline">{names[0]} and {names[1]} {alike}{value.correlation !== null && <small> Rank correlation {value.correlation.toFixed(2)} over {count(value.matched)} images. Below each image: its rank here, and in the other order.</small>}</p>
      <div class="columns-two">
        {([["first", 0], ["second", 1]] as const).map(([name, place]) => (
          <section key={name} aria-label={`By ${names[place]}`}>
            <h3>By {names[place]}</h3>
            <ol class="ranked">{value[name].map((row) => <Ranked key={`${row.shard}/${row.index}`} row={row} place={place} />)}</ol>
          </section>
        ))}
      </div>
      {([["first_alone", 0], ["second_alone", 1]] as const).map(([name, place]) => value[name].length > 0 && (
        <section key={name}>
          <h3>High by {names[place]}, low by {names[1 - place]}</h3>
          <ol class="ranked wide">{value[name].slice(0, 20).map((row) => <Ranked key={`${row.shard}/${row.index}`} row={row} place={place} />)}</ol>
        </section>
      ))}
    </div>
  );
}

function Ranked({ row, place }: { row: RankedRow; place: 0 | 1 }) {
  const [own, other] = [row.ranks[place]!, row.ranks[1 - place]!];
  return (
    <li><button type="button" class="thumb" title={title(row)} aria-label={`${title(row)}: number ${count(own)} here, ${count(other)} in the other order`} onClick={() => go({ open: `${row.shard}/${row.index}` })}>
      <Picture row={row} size={128} /></button>
      <span class="ranks" aria-hidden="true"><strong>{count(own)}</strong> <span class={other - own > 0 ? "worse" : ""}>{other === own ? "=" : count(other)}</span></span></li>
  );
}
