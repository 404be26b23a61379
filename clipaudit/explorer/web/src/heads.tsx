// Heads in words: a table, one head in detail, and for each of its texts the images at both ends.
import { useState } from "preact/hooks";
import { useAnswer } from "./api";
import { BesideChoice } from "./beside";
import { go, NO_QUESTION, type State } from "./state";
import type { HeadFacts, HeadsAnswer, Row, Strip } from "./types";
import { Loading, Missing, percent, Picture, Problem, title } from "./words";

type Order = "head" | "share" | "role";

export function Heads({ state }: { state: State }) {
  const { value, error } = useAnswer<HeadsAnswer>("/heads");
  const [order, setOrder] = useState<Order>("share");
  const [down, setDown] = useState(true);
  if (error) return <Problem error={error} />;
  if (!value) return <Loading what="Reading the heads …" />;
  const most = Math.max(...value.heads.map((each) => each.share), 1e-9);
  const sorted = [...value.heads].sort((a, b) => {
    const by = order === "share" ? a.share - b.share : order === "role" ? (a.role ?? "~").localeCompare(b.role ?? "~") : a.head.localeCompare(b.head);
    return down ? -by : by;
  });
  const turn = (name: Order) => { setDown(order === name ? !down : name === "share"); setOrder(name); };
  const column = (name: Order, words: string) => (
    <th scope="col" aria-sort={order === name ? (down ? "descending" : "ascending") : "none"}>
      <button type="button" class="sort" onClick={() => turn(name)}>{words}<span aria-hidden="true">{order === name ? (down ? " ↓" : " ↑") : ""}</span></button>
    </th>
  );
  const chosen = value.heads.find((each) => each.head === state.focus);
  return (
    <>
      <header class="panel-head">
        <h2>Heads</h2>
        <p class="muted">Each image is a sum over {value.heads.length} stored heads. A head's share is its part of the variance.</p>
      </header>
      {value.missing && <Missing command={value.command}>{value.missing} One command puts each head into words:</Missing>}
      {chosen && <Detail head={chosen} state={state} />}
      <table class="heads">
        <thead><tr>{column("head", "Head")}{column("share", "Share")}{column("role", "Role")}<th scope="col">Words</th></tr></thead>
        <tbody>
          {sorted.map((each) => (
            <tr key={each.head} aria-current={each.head === state.focus}>
              <th scope="row"><button type="button" class="link" onClick={() => go({ focus: each.head, text: [], head: [] })}>{each.head}</button></th>
              <td class="share"><span class="meter" style={{ width: `${(100 * each.share) / most}%` }} aria-hidden="true" /><span>{percent(each.share, 1)}</span></td>
              <td>{each.role ?? "–"}</td>
              <td class="words">{each.texts.slice(0, 3).map((text) => text.text).join("; ")}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}

function Detail({ head, state }: { head: HeadFacts; state: State }) {
  const [own, setOwn] = useState("");
  const most = Math.max(...head.texts.map((each) => each.explained), 1e-9);
  const ask = (text: string) => go({ ...NO_QUESTION, beside: state.beside, text: [text], head: [head.head], sort: "", group: "", open: "" });
  return (
    <section class="card detail">
      <h3>{head.head} {head.role && <span class="pill">{head.role}</span>} <button type="button" class="quiet" aria-label="Close the head" onClick={() => go({ focus: "", text: [], head: [] })}>×</button></h3>
      {head.texts.length > 0 && <p class="muted">Its texts, by the variance that each adds. Choose one to sort all images by it.</p>}
      <ol class="texts">
        {head.texts.slice(0, 8).map((each) => (
          <li key={each.text}>
            <button type="button" class="value" aria-pressed={state.text[0] === each.text} onClick={() => ask(each.text)}>
              <span class="meter" style={{ width: `${(100 * each.explained) / most}%` }} aria-hidden="true" />
              <span class="name">{each.text}</span><span class="number">{percent(each.explained, 0)}</span>
            </button>
          </li>
        ))}
      </ol>
      <form onSubmit={(event) => { event.preventDefault(); if (own.trim()) ask(own.trim()); }}>
        <label class="stacked">Your own text <input value={own} maxLength={300} placeholder="a photo of the sea" onInput={(event) => setOwn(event.currentTarget.value)} /></label>
      </form>
      {state.text.length > 0 && <BesideChoice state={state} none="Side by side with" />}
      <div class="buttons"><button type="button" onClick={() => go({ ...NO_QUESTION, screen: "search", head: [head.head], focus: "", open: "" })}>Search by this head</button></div>
    </section>
  );
}

/** Both ends of each text of a head, in place of the wall. */
export function Strips({ head, state }: { head: string; state: State }) {
  const heads = useAnswer<HeadsAnswer>("/heads");
  const texts = heads.value?.heads.find((each) => each.head === head)?.texts.slice(0, 6) ?? [];
  const given = new URLSearchParams();
  for (const each of texts) given.append("text", each.text);
  if (state.where.trim()) given.append("where", state.where);
  const { value, error, loading } = useAnswer<Strip[]>(texts.length ? `/heads/${encodeURIComponent(head)}/strips?${given}` : null);
  if (error) return <div class="wall"><Problem error={error} /></div>;
  if (!texts.length) return <div class="wall"><Missing>{head} has no words yet. Ask it with a text of your own, on the left.</Missing></div>;
  if (!value) return <div class="wall"><Loading what="Scoring every image. The first question loads the model …" /></div>;
  return (
    <div class="wall strips" aria-busy={loading}>
      {value.map((strip) => (
        <section key={strip.text}>
          <h3>{strip.text}</h3>
          <Row label="most" rows={strip.top} />
          <Row label="least" rows={strip.bottom} />
        </section>
      ))}
    </div>
  );
}

function Row({ label, rows }: { label: string; rows: Row[] }) {
  return (
    <div class="strip">
      <span class="strip-label">{label}</span>
      {rows.map((row) => (
        <button type="button" class="thumb" key={`${row.shard}/${row.index}`} aria-label={title(row)} title={title(row)} onClick={() => go({ open: `${row.shard}/${row.index}` })}>
          <Picture row={row} size={128} />
        </button>
      ))}
    </div>
  );
}
