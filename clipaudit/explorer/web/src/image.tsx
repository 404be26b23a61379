// One image: its file, where texts are in it, what each part of the model adds to its score, what is like it, columns.
import { useEffect, useState } from "preact/hooks";
import { useAnswer } from "./api";
import { Where } from "./heat";
import { Near } from "./near";
import { go, NO_QUESTION, type State } from "./state";
import type { ClassFacts, FindingsAnswer, HeadsAnswer, Parts, RowDetail, RowsAnswer } from "./types";
import { Copyable, Loading, original, Picture, Problem, short, signed, title } from "./words";

export function ImagePanel({ open, state, onTag }: { open: string; state: State; onTag: () => void }) {
  const { value: row, error } = useAnswer<RowDetail>(`/rows/${open}`);
  if (error) return <><Close /><Problem error={error} /></>;
  if (!row) return <><Close /><Loading what="Reading the image …" /></>;
  const name = `${row.shard}/${row.key}`;
  return (
    <>
      <header class="panel-head image-head">
        <h2>{row.class_name ?? row.label ?? "Image"}</h2>
        <div class="buttons">
          <button type="button" onClick={onTag}>Tag …</button>
          <button type="button" onClick={() => go({ ...NO_QUESTION, screen: "search", key: [name], sort: "", group: "" })}>More like this</button>
        </div>
        <Close />
      </header>
      <figure class="original">
        <Picture row={row} size={384} src={original(row)} />
        <figcaption><span class="key">{name}</span> {row.width && <span class="muted">{row.width} × {row.height}</span>}</figcaption>
      </figure>
      {row.caption && <p class="image-caption">“{row.caption}”</p>}
      {row.tags.length > 0 && (
        <ul class="tags">{row.tags.map((each) => <li key={each.tag}><span class="pill">{each.tag}</span> {each.reason} <span class="muted">{each.author}</span></li>)}</ul>
      )}
      <Answers row={row} />
      <Where open={open} row={row} state={state} />
      <Bars open={open} row={row} state={state} />
      <Near open={open} />
      <Neighbours name={name} by={state.alike} />
      <section>
        <h3>Columns</h3>
        <dl class="columns">
          {Object.entries(row.columns).filter(([column]) => !["key", "shard_id", "index"].includes(column) && !/\.(right|predicted)$/.test(column)).map(([column, value]) => (
            <div key={column}><dt>{column.replace(/^attributes\./, "")}</dt><dd>{value === null ? <span class="muted">none</span> : Number.isNaN(Number(value)) || value.trim() === "" ? value : short(value)}</dd></div>
          ))}
        </dl>
        <Copyable text={name} name="key" />
      </section>
    </>
  );
}

/** What each answerer says of the image, where the report scored it. */
function Answers({ row }: { row: RowDetail }) {
  const { value } = useAnswer<FindingsAnswer>("/findings");
  const list = Object.entries(value?.answers ?? {}).map(([column, whose]) => ({ whose, right: row.columns[column], answer: row.columns[column.replace(/right$/, "predicted")] }));
  const scored = list.filter((each) => each.answer);
  if (!scored.length) return null;
  return (
    <section>
      <h3>Answers</h3>
      <ul class="answers">{scored.map((each) => <li key={each.whose}><span>{each.whose}</span><span class={each.right === "true" ? "good" : "bad"}>{each.answer} <span aria-hidden="true">{each.right === "true" ? "✓" : "✗"}</span><span class="visually-hidden">{each.right === "true" ? "right" : "wrong"}</span></span></li>)}</ul>
    </section>
  );
}

function Close() {
  return <button type="button" class="quiet close" aria-label="Close the image" onClick={() => go({ open: "" })}>×</button>;
}

function Bars({ open, row, state }: { open: string; row: RowDetail; state: State }) {
  const classes = useAnswer<ClassFacts[]>("/classes");
  const { scored: text, toward: target, against } = state;
  const [draft, setDraft] = useState(text);
  useEffect(() => setDraft(text), [text]);
  const average = state.whole !== "yes";
  const [all, setAll] = useState(false);
  const list = classes.value ?? [];
  const label = target || row.labels.find((own) => list.some((each) => each.label === own)) || list[0]?.label || "";
  const other = (against !== label && against) || list.find((each) => each.label !== label)?.label || "";
  const given = new URLSearchParams({ average: String(average) });
  if (text) given.set("text", text);
  else {
    given.set("label", label);
    if (other && other !== "none" && other !== label) given.set("against", other);
  }
  const ready = text || (list.length > 0 && label);
  const { value, error } = useAnswer<Parts>(ready ? `/rows/${open}/parts?${given}` : null);
  const heads = (value?.parts ?? []).filter((each) => each.name !== "rest").sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const largest = all ? heads : heads.slice(0, 10);
  const others = heads.slice(largest.length).reduce((sum, each) => sum + each.value, 0);
  const rest = value?.parts.find((each) => each.name === "rest")?.value ?? 0;
  const rows: { name: string; about: string; value: number }[] = largest.map((each) => ({ name: each.name, about: each.words.join("; "), value: each.value }));
  if (heads.length > largest.length) rows.push({ name: `${heads.length - largest.length} other parts`, about: "", value: others });
  if (value) rows.push({ name: "everything else", about: "MLPs, biases, layers not stored", value: rest });
  const most = Math.max(...rows.map((each) => Math.abs(each.value)), 1e-12);
  return (
    <section class="bars">
      <h3>What adds up to its score</h3>
      {classes.error && !text && <p class="muted">{classes.error}</p>}
      <div class="bar-controls">
        {list.length > 0 && !text && (
          <>
            <label>for <select value={label} onChange={(event) => go({ toward: event.currentTarget.value })}>{list.map((each) => <option key={each.label} value={each.label}>{each.name}</option>)}</select></label>
            <label>rather than <select value={other} onChange={(event) => go({ against: event.currentTarget.value })}>
              {list.filter((each) => each.label !== label).map((each) => <option key={each.label} value={each.label}>{each.name}</option>)}
              <option value="none">nothing</option></select></label>
          </>
        )}
        <form onSubmit={(event) => { event.preventDefault(); go({ scored: draft.trim() }); }}>
          <label>{text ? "for" : "or"} <input value={draft} placeholder="a text" maxLength={300} onInput={(event) => { setDraft(event.currentTarget.value); if (!event.currentTarget.value) go({ scored: "" }); }} /></label>
        </form>
        <label class="choice"><input type="checkbox" checked={average} onChange={(event) => go({ whole: event.currentTarget.checked ? "" : "yes" })} /> less the average image's</label>
      </div>
      {error && <Problem error={error} />}
      {!value && !error && ready && <Loading what="Adding up …" />}
      {value && (
        <>
          <table>
            <caption class="visually-hidden">Parts of the score for {value.of}</caption>
            <colgroup><col class="name" /><col /><col class="amount" /></colgroup>
            <tbody>
              {rows.map((each) => (
                <tr key={each.name}>
                  <th scope="row" title={each.about}><span>{each.name}</span>{each.about && <small>{each.about}</small>}</th>
                  <td class="track" aria-hidden="true"><span class={each.value < 0 ? "negative" : "positive"} style={{ width: `${(50 * Math.abs(each.value)) / most}%` }} /></td>
                  <td class="number">{signed(each.value, 4)}</td>
                </tr>
              ))}
            </tbody>
            <tfoot><tr><th scope="row">Sum: the score</th><td /><td class="number">{signed(rows.reduce((sum, each) => sum + each.value, 0), 4)}</td></tr></tfoot>
          </table>
          {heads.length > 10 && <button type="button" class="link" onClick={() => setAll(!all)}>{all ? "the largest only" : `all ${heads.length} parts`}</button>}
        </>
      )}
    </section>
  );
}

function Neighbours({ name, by }: { name: string; by: string }) {
  const heads = useAnswer<HeadsAnswer>("/heads");
  const given = new URLSearchParams({ key: name, limit: "13" });
  if (by) given.set("head", by);
  const { value, error } = useAnswer<RowsAnswer>(`/rows?${given}`);
  const rows = (value?.rows ?? []).filter((each) => `${each.shard}/${each.key}` !== name).slice(0, 12);
  return (
    <section>
      <h3>Most alike
        <label class="inline">in <select value={by} onChange={(event) => go({ alike: event.currentTarget.value })}>
          <option value="">everything</option>
          {(heads.value?.heads ?? []).map((each) => <option key={each.head} value={each.head}>{each.head}{each.role ? ` · ${each.role}` : each.texts[0] ? ` · ${each.texts[0].text.slice(0, 40)}` : ""}</option>)}
        </select></label>
      </h3>
      {error && <Problem error={error} />}
      <div class="strip">
        {rows.map((row) => (
          <button type="button" class="thumb" key={`${row.shard}/${row.index}`} aria-label={title(row)} title={title(row)} onClick={() => go({ open: `${row.shard}/${row.index}` })}><Picture row={row} size={128} /></button>
        ))}
      </div>
      <button type="button" class="link" onClick={() => go({ ...NO_QUESTION, screen: "search", key: [name], head: by ? [by] : [], sort: "", group: "" })}>all of them on the wall</button>
    </section>
  );
}
