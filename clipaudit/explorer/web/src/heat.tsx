// Where texts are in the open image: maps of texts x heads over the picture, all on one scale.
import { useEffect, useRef, useState } from "preact/hooks";
import { useAnswer } from "./api";
import { go, type State } from "./state";
import type { FindingsAnswer, HeadFacts, HeadsAnswer, HeatAnswer, HeatMap, RowDetail } from "./types";
import { Loading, Picture, Problem, signed } from "./words";

const TEXTS = 4;
const HEADS = 6;
const EVERYTHING = "embedding";
const plain = (value: number) => value.toFixed(3).replace("-", "−");
const named = (head: string) => (head === EVERYTHING ? "Everything" : head);

export function Where({ open, row, state }: { open: string; row: RowDetail; state: State }) {
  const through = state.through.length ? state.through : [EVERYTHING];
  const given = new URLSearchParams();
  for (const text of state.heat) given.append("text", text);
  for (const head of through) given.append("head", head);
  const { value, error, loading } = useAnswer<HeatAnswer>(state.heat.length ? `/rows/${open}/heat?${given}` : null);
  // maps of the image before would lie over this one
  const maps = value?.image === open && state.heat.length ? value : null;
  return (
    <section class="where" aria-label="Where it is">
      <h3>Where it is {maps && loading && <span class="spinner inline-spinner" role="status"><span class="visually-hidden">Looking …</span></span>}</h3>
      <Texts state={state} row={row} />
      {state.heat.length > 0 && <Through state={state} through={through} row={row} />}
      {state.heat.length > 0 && error && <Problem error={error} />}
      {state.heat.length > 0 && !maps && !error && <Loading what="Looking. The first question loads the model …" />}
      {maps && <Maps value={maps} row={row} />}
    </section>
  );
}

/** What may be looked for: words of the finding that is open, or of the one of this image's class, and the class. */
function suggestions(findings: FindingsAnswer | null, row: RowDetail, state: State): { texts: string[]; heads: string[] } {
  const list = findings?.findings ?? [];
  const finding = list.find((each) => each.id === state.finding) ?? list.find((each) => each.class_name === row.class_name) ?? list[0];
  const own = row.class_name ? [`a photo of a ${row.class_name}`] : [];
  return { texts: [...new Set([...(finding?.words ?? []).slice(0, 2), ...own])], heads: finding?.heads ?? [] };
}

function Texts({ state, row }: { state: State; row: RowDetail }) {
  const findings = useAnswer<FindingsAnswer>("/findings");
  const [draft, setDraft] = useState("");
  const offered = suggestions(findings.value, row, state).texts.filter((text) => !state.heat.includes(text));
  const full = state.heat.length >= TEXTS;
  const add = (text: string) => {
    if (!text.trim() || full || state.heat.includes(text.trim())) return;
    go({ heat: [...state.heat, text.trim()] });
    setDraft("");
  };
  return (
    <>
      <form class="inline-form" onSubmit={(event) => { event.preventDefault(); add(draft); }}>
        <label class="stacked"><span class="visually-hidden">What to look for</span> <input value={draft} maxLength={300} placeholder="What to look for" disabled={full} onInput={(event) => setDraft(event.currentTarget.value)} /></label>
        <button type="submit" class={state.heat.length ? "" : "primary"} disabled={full || !draft.trim()}>Show</button>
      </form>
      {state.heat.length + offered.length > 0 && (
        <ul class="picks" aria-label="Texts that are looked for, and others from the finding and the class">
          {state.heat.map((text) => (
            <li key={text} class="pick on">{text} <button type="button" class="quiet" aria-label={`Look for ${text} no longer`} onClick={() => go({ heat: state.heat.filter((each) => each !== text) })}>×</button></li>
          ))}
          {!full && offered.map((text) => <li key={text}><button type="button" class="pick" aria-label={`Look for ${text}`} onClick={() => add(text)}><span aria-hidden="true">+</span> {text}</button></li>)}
        </ul>
      )}
      {full && <p class="muted">{TEXTS} texts at most: take one out to look for another.</p>}
    </>
  );
}

const about = (head: HeadFacts | undefined) => head?.role ?? head?.texts[0]?.text.slice(0, 40) ?? "";

function Through({ state, through, row }: { state: State; through: string[]; row: RowDetail }) {
  const heads = useAnswer<HeadsAnswer>("/heads");
  const findings = useAnswer<FindingsAnswer>("/findings");
  const all = heads.value?.heads ?? [];
  const facts = new Map(all.map((each) => [each.head, each]));
  const shown = [...new Set([EVERYTHING, ...suggestions(findings.value, row, state).heads, ...through])];
  const full = through.length >= HEADS;
  const set = (next: string[]) => go({ through: next.length === 1 && next[0] === EVERYTHING ? [] : next });
  return (
    <fieldset class="through">
      <legend class="visually-hidden">Through which heads</legend>
      <div class="picks">
        <span class="muted" aria-hidden="true">through</span>
        {shown.map((head) => {
          const on = through.includes(head);
          return (
            <label class={on ? "pick on" : "pick"} key={head} title={head === EVERYTHING ? "All heads of the model together" : about(facts.get(head))}>
              <input type="checkbox" checked={on} disabled={on ? through.length === 1 : full} onChange={() => set(on ? through.filter((each) => each !== head) : [...through, head])} />
              {named(head)}
            </label>
          );
        })}
        {all.length > 0 && (
          <select aria-label="Another head" value="" disabled={full} onChange={(event) => { if (event.currentTarget.value) set([...through, event.currentTarget.value]); event.currentTarget.value = ""; }}>
            <option value="">more</option>
            {all.filter((each) => !through.includes(each.head)).map((each) => <option key={each.head} value={each.head}>{each.head}{about(each) && ` · ${about(each)}`}</option>)}
          </select>
        )}
      </div>
      {full && <p class="muted">{HEADS} at most.</p>}
    </fieldset>
  );
}

function Maps({ value, row }: { value: HeatAnswer; row: RowDetail }) {
  const [under, setUnder] = useState<number | null>(null);
  const none = value.texts.every((each) => !each.seen);
  return (
    <>
      <Legend value={value} under={under} />
      {value.heads.map((head) => (
        <div class="map-row" key={head} role="group" aria-label={head === EVERYTHING ? "Through all heads together" : `Through ${head}`}>
          {value.heads.length > 1 && <h4>{named(head)} {head === EVERYTHING && <small>all heads together</small>}</h4>}
          <div class="maps">
            {value.texts.map(({ text, seen, cosine }) => (
              <OneMap key={text} map={value.maps.find((each) => each.head === head && each.text === text)!} seen={seen} cosine={cosine} value={value} row={row} onValue={setUnder} />
            ))}
          </div>
        </div>
      ))}
      <p class="muted">
        {value.heads.includes(EVERYTHING) ? "What MLPs add to the cosine has no place. " : ""}
        {value.texts.some((each) => !each.seen) && `No map ${none ? "is drawn" : "of what is not seen"}: unrelated texts come as close to this picture, and a map's brightest place would say that it is there. `}
        {value.frame.kept && `The model saw ${value.frame.kept.replaceAll(" x ", " × ")}; the rest is dark. `}
        {value.register_like.length > 0 && "Outlined: patches that gather from elsewhere, so that their place means little."}
      </p>
    </>
  );
}

/** The one scale: what the colours stand for, zero among them, and the patch under the pointer. */
function Legend({ value, under }: { value: HeatAnswer; under: number | null }) {
  const { low, high } = value.scale;
  const at = (number: number) => `${high > low ? (100 * (number - low)) / (high - low) : 0}%`;
  const zero = (100 * -low) / (high - low || 1);
  const digits = Math.max(0, Math.min(5, 2 - Math.floor(Math.log10(Math.max(high, -low, 1e-5)))));
  return (
    <div class="heat-legend">
      <p id="heat-scale">What a patch adds to the cosine, one scale for all maps<span class="visually-hidden">, from {signed(low, digits)} to {signed(high, digits)}</span></p>
      <div class="heat-ramp" aria-hidden="true" style={{ backgroundImage: `linear-gradient(90deg, ${value.colours.join(", ")})` }}>
        {low < 0 && high > 0 && <span class="zero" style={{ left: at(0) }} />}
        {under !== null && <span class="under" style={{ left: at(under) }} />}
      </div>
      <div class="heat-ends" aria-hidden="true">
        <span>{low < 0 ? signed(low, digits) : "0"}</span>
        {low < 0 && high > 0 && zero > 14 && zero < 86 && <span class="zero" style={{ left: at(0) }}>0</span>}
        <span>{under !== null && <strong>here {signed(under, digits)}</strong>}</span>
        <span>{high > 0 ? signed(high, digits) : "0"}</span>
      </div>
    </div>
  );
}

const ROWS = ["top", "middle", "bottom"];
const COLUMNS = ["left", "centre", "right"];

/** Where a map is brightest, in words. */
function peak(scores: number[][]): string {
  let best: [number, number] = [0, 0];
  scores.forEach((line, y) => line.forEach((score, x) => { if (score > scores[best[0]]![best[1]]!) best = [y, x]; }));
  const third = (place: number, length: number) => Math.min(2, Math.floor((3 * (place + 0.5)) / length));
  const [y, x] = [third(best[0], scores.length), third(best[1], scores[0]!.length)];
  return y === 1 && x === 1 ? "in the middle" : `at the ${ROWS[y]} ${COLUMNS[x]}`;
}

function OneMap({ map, seen, cosine, value, row, onValue }: { map: HeatMap; seen: boolean; cosine: number; value: HeatAnswer; row: RowDetail; onValue: (score: number | null) => void }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [rows, columns] = value.grid;
  const { frame, scale, colours } = value;
  const [height, width] = frame.size;
  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context) return;
    const pixels = context.createImageData(columns, rows);
    const span = scale.high - scale.low || 1;
    map.scores.flat().forEach((score, place) => {
      const share = Math.min(1, Math.max(0, (score - scale.low) / span));
      const colour = Number.parseInt(colours[Math.round(share * (colours.length - 1))]!.slice(1), 16);
      pixels.data.set([colour >> 16, (colour >> 8) & 255, colour & 255, 255], 4 * place);
    });
    context.putImageData(pixels, 0, 0);
  }, [map, value, seen]);
  const box = { left: `${(100 * frame.left) / width}%`, top: `${(100 * frame.top) / height}%`, width: `${(100 * (frame.right - frame.left)) / width}%`, height: `${(100 * (frame.bottom - frame.top)) / height}%` };
  const follow = (event: PointerEvent) => {
    const area = canvas.current!.getBoundingClientRect();
    const y = Math.floor(((event.clientY - area.top) / area.height) * rows);
    const x = Math.floor(((event.clientX - area.left) / area.width) * columns);
    onValue(map.scores[y]?.[x] ?? null);
  };
  const through = map.head === EVERYTHING ? "all heads" : map.head;
  return (
    <figure class={seen ? "heat" : "heat unseen"}>
      <div class="heat-picture" style={{ aspectRatio: `${width} / ${height}` }}>
        <Picture row={row} size={384} />
        {seen && (
          <div class="heat-over" style={box} onPointerMove={follow} onPointerLeave={() => onValue(null)}>
            <canvas ref={canvas} width={columns} height={rows} role="img" aria-describedby="heat-scale" aria-label={`“${map.text}” through ${through}: strongest ${peak(map.scores)}`} />
            {value.register_like.map(([y, x]) => <span key={`${y} ${x}`} class="register" style={{ left: `${(100 * x) / columns}%`, top: `${(100 * y) / rows}%`, width: `${100 / columns}%`, height: `${100 / rows}%` }} />)}
          </div>
        )}
      </div>
      <figcaption>
        <span class="text">{map.text}</span>
        {seen ? <span class="number">adds {signed(map.adds, 3)} <span class="muted">of {plain(cosine)}</span></span>
          : <span class="muted">not seen: {plain(cosine)}, unrelated texts reach {plain(value.unrelated_cosine ?? 0)}</span>}
      </figcaption>
    </figure>
  );
}
