// The map: every image a point; a region drawn on it is a filter, and what sets it apart is said in words.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { ask, Refused, revision, useAnswer } from "./api";
import { cornersOf, fetchMap, palette, regionText, shade, simplified, tint, type Corner, type MapData } from "./mapdata";
import { nearest, renderer, type Renderer, type View } from "./points";
import { also, equals, go, type State } from "./state";
import type { ApartAnswer, ColumnFacts, Difference, HeadsAnswer, Row } from "./types";
import { count, images, Loading, Missing, percent, Picture, Problem, short, title } from "./words";

const DARK = matchMedia("(prefers-color-scheme: dark)");
const MOST_CORNERS = 200;

export function MapScreen({ state, columns }: { state: State; columns: ColumnFacts[] }) {
  const heads = useAnswer<HeadsAnswer>("/heads");
  const space = state.space || "embedding";
  const method = state.method || "pca";
  const colour = state.colour || (columns.some((each) => each.name === "label") ? "label" : "");
  const given = new URLSearchParams({ space, method });
  if (colour && colour !== "-") given.set("colour", colour);
  if (state.where.trim()) given.set("where", state.where);
  const map = useMap(given.toString());
  const colours = columns.filter((each) => !["key", "shard_id", "index", "caption"].includes(each.name) && (each.values.length > 0 || each.low !== null || each.page_only));
  return (
    <>
      <header class="panel-head"><h2>Map</h2>
        <p class="muted">Images that {space === "embedding" ? "the model" : `head ${space}`} sees alike lie near each other. Draw round some to see what sets them apart.</p></header>
      <div class="bar-controls">
        <label>By <select value={space} onChange={(event) => go({ space: event.currentTarget.value === "embedding" ? "" : event.currentTarget.value, inside: "" })}>
          <option value="embedding">everything</option>
          {(heads.value?.heads ?? []).map((each) => <option key={each.head} value={each.head}>{each.head}{each.role ? ` · ${each.role}` : each.texts[0] ? ` · ${each.texts[0].text.slice(0, 40)}` : ""}</option>)}
        </select></label>
        <label>Layout <select value={method} onChange={(event) => go({ method: event.currentTarget.value === "pca" ? "" : event.currentTarget.value, inside: "" })}>
          <option value="pca">PCA</option><option value="umap">UMAP</option><option value="pacmap">PaCMAP</option></select></label>
        <label>Colour <select value={colour} onChange={(event) => go({ colour: event.currentTarget.value }, true)}>
          <option value="-">none</option>
          {colours.map((each) => <option key={each.name} value={each.name}>{each.short}</option>)}
        </select></label>
      </div>
      {map.error ? /not installed/.test(map.error) ? <Missing command="pip install 'clipaudit[map]'">{method === "umap" ? "UMAP" : "PaCMAP"} is not installed. PCA needs nothing:</Missing> : <Problem error={map.error} />
        : map.value ? <Plot data={map.value} state={state} space={space} method={method} busy={map.loading} />
          : <Loading what={method === "pca" ? "Laying out the images …" : "Laying out 20,000 images: a minute or two, once …"} />}
      {map.value && <Legend data={map.value} columns={columns} state={state} />}
      {state.inside && <ApartPanel state={state} columns={columns} />}
    </>
  );
}

function useMap(parameters: string) {
  const stamp = revision.use();
  const [loaded, set] = useState<{ value: MapData | null; error: string | null; loading: boolean }>({ value: null, error: null, loading: true });
  useEffect(() => {
    const stop = new AbortController();
    set((before) => ({ ...before, loading: true }));
    fetchMap(parameters, stop.signal).then(
      (value) => set({ value, error: null, loading: false }),
      (error) => { if (!stop.signal.aborted) set((before) => ({ value: error instanceof Refused ? null : before.value, error: error instanceof Refused ? error.message : null, loading: false })); },
    );
    return () => stop.abort();
  }, [parameters, stamp]);
  return loaded;
}

interface PlotProps { data: MapData; state: State; space: string; method: string; busy: boolean }

function Plot({ data, state, space, method, busy }: PlotProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const drawer = useRef<Renderer | null>(null);
  const view = useRef<View>({ x: 0, y: 0, side: 1 });
  const box = useRef({ width: 0, height: 0 });
  const rest = useRef(0);
  const frame = useRef(0);
  const [line, setLine] = useState<Corner[]>([]);
  const [mode, setMode] = useState<"region" | "move">("region");
  const [hovered, setHovered] = useState<{ row: Row; x: number; y: number } | null>(null);
  const [, again] = useState(0);
  const down = useRef<{ x: number; y: number; at: View; moved: boolean } | null>(null);
  const dotSize = () => Math.min(6, Math.max(data.header.points > 200_000 ? 1 : data.header.points > 20_000 ? 1.5 : 3, 3 * Math.sqrt(view.current.side / Math.max(box.current.width, 1) / 4)));

  /** Draws in the next frame: few points while it moves, and all of them once it rests. */
  const draw = (moving = false) => {
    cancelAnimationFrame(frame.current);
    clearTimeout(rest.current);
    frame.current = requestAnimationFrame(() => drawer.current?.draw(view.current, dotSize(), moving));
    if (moving) rest.current = window.setTimeout(() => { draw(); again((n) => n + 1); }, 160);
  };
  const fit = () => {
    const { width, height } = box.current;
    const side = Math.min(width, height) - 16;
    view.current = { x: (width - side) / 2, y: (height - side) / 2, side };
  };

  useLayoutEffect(() => {
    const element = canvas.current!;
    drawer.current = renderer(element);
    element.dataset.drawnBy = drawer.current.kind;
    const measure = () => {
      const before = box.current;
      const [width, height] = [element.clientWidth, element.clientHeight];
      if (width === box.current.width && height === box.current.height) return;
      box.current = { width, height };
      const ratio = Math.min(2, devicePixelRatio);
      element.width = Math.round(width * ratio);
      element.height = Math.round(height * ratio);
      if (before.width === 0) fit();
      else {
        // what lay in the middle stays there, as large in relation to the box
        const by = Math.min(width, height) / Math.min(before.width, before.height);
        const { x, y, side } = view.current;
        view.current = { x: width / 2 - (before.width / 2 - x) * by, y: height / 2 - (before.height / 2 - y) * by, side: side * by };
      }
      draw();
      again((n) => n + 1);
    };
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => { observer.disconnect(); cancelAnimationFrame(frame.current); clearTimeout(rest.current); drawer.current?.close(); };
  }, []);
  useEffect(() => { drawer.current?.load(data); }, [data]);
  useEffect(() => {
    const paint = () => { drawer.current?.palette(palette(data.header.kind, data.header.points, DARK.matches)); draw(); };
    paint();
    DARK.addEventListener("change", paint);
    return () => DARK.removeEventListener("change", paint);
  }, [data]);

  const place = (event: MouseEvent): Corner => {
    const at = canvas.current!.getBoundingClientRect();
    return [event.clientX - at.left, at.bottom - event.clientY];
  };
  const toMap = ([x, y]: Corner): Corner => [((x - view.current.x) / view.current.side) * 65535, ((y - view.current.y) / view.current.side) * 65535];
  const zoom = (factor: number, [x, y]: Corner) => {
    const now = view.current;
    const side = Math.min(200 * box.current.width, Math.max(box.current.width / 4, now.side * factor));
    const by = side / now.side;
    view.current = { x: x - (x - now.x) * by, y: y - (y - now.y) * by, side };
    draw(true);
    again((n) => n + 1);
  };
  const choose = (corners: Corner[]) => {
    const region = simplified(corners, 1, MOST_CORNERS);
    if (region.length >= 3) go({ inside: regionText(space, method, region), open: "" });
  };
  const rowOf = (point: number) => ask<Row>(`/map/rows/${data.numbers ? data.numbers[point] : point}`);

  useEffect(() => {
    const element = canvas.current!;
    // a listener of its own: the page must not scroll along
    const wheel = (event: WheelEvent) => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 400), place(event)); };
    element.addEventListener("wheel", wheel, { passive: false });
    return () => element.removeEventListener("wheel", wheel);
  });

  const start = (event: PointerEvent) => {
    if (event.button !== 0) return;
    (event.target as Element).setPointerCapture(event.pointerId);
    const [x, y] = place(event);
    down.current = { x, y, at: view.current, moved: false };
    setHovered(null);
    if (mode === "region" && !event.shiftKey) setLine([[x, y]]);
  };
  const hoverTimer = useRef(0);
  const move = (event: PointerEvent) => {
    const [x, y] = place(event);
    const from = down.current;
    if (!from) {
      clearTimeout(hoverTimer.current);
      hoverTimer.current = window.setTimeout(async () => {
        const point = nearest(data, view.current, x, y, 6);
        if (point < 0) return setHovered(null);
        const row = await rowOf(point).catch(() => null);
        setHovered(row && { row, x, y });
      }, 90);
      return;
    }
    if (Math.hypot(x - from.x, y - from.y) > 3) from.moved = true;
    if (line.length) setLine([...line, [x, y]]);
    else if (from.moved) {
      view.current = { ...from.at, x: from.at.x + x - from.x, y: from.at.y + y - from.y };
      draw(true);
      again((n) => n + 1);
    }
  };
  const end = async (event: PointerEvent) => {
    const from = down.current;
    down.current = null;
    const corners = line;
    setLine([]);
    if (!from) return;
    if (from.moved && corners.length > 2) return choose(simplified(corners, 3, MOST_CORNERS).map(toMap));
    if (from.moved) return;
    const [x, y] = place(event);
    const point = nearest(data, view.current, x, y, 8);
    if (point < 0) return;
    const row = await rowOf(point).catch(() => null);
    if (row) go({ open: `${row.shard}/${row.index}` });
  };
  const middle = (): Corner => [box.current.width / 2, box.current.height / 2];
  const inView = () => {
    const { width, height } = box.current;
    choose(([[0, 0], [width, 0], [width, height], [0, height]] as Corner[]).map(toMap));
  };
  const keys = (event: KeyboardEvent) => {
    const steps: Record<string, Corner> = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, -40], ArrowDown: [0, 40] };
    const step = steps[event.key];
    if (step) view.current = { ...view.current, x: view.current.x + step[0], y: view.current.y + step[1] };
    else if (event.key === "+" || event.key === "=") zoom(1.3, middle());
    else if (event.key === "-") zoom(1 / 1.3, middle());
    else if (event.key === "0") fit();
    else if (event.key === "Enter") inView();
    else return;
    event.preventDefault();
    draw(true);
    again((n) => n + 1);
  };

  const shown = cornersOf(state.inside, space, method).map(([x, y]): Corner => [view.current.x + (x / 65535) * view.current.side, view.current.y + (y / 65535) * view.current.side]);
  const path = (corners: Corner[]) => corners.map(([x, y]) => `${x.toFixed(1)},${(box.current.height - y).toFixed(1)}`).join(" ");
  return (
    <div class="map" aria-busy={busy}>
      <div class="map-tools">
        <span class="modes" role="group" aria-label="What dragging does">
          <button type="button" class="quiet" aria-pressed={mode === "region"} onClick={() => setMode("region")}>Draw a region</button>
          <button type="button" class="quiet" aria-pressed={mode === "move"} onClick={() => setMode("move")}>Move</button>
        </span>
        <span class="space" />
        <button type="button" class="quiet" aria-label="Zoom in" onClick={() => zoom(1.5, middle())}>+</button>
        <button type="button" class="quiet" aria-label="Zoom out" onClick={() => zoom(1 / 1.5, middle())}>−</button>
        <button type="button" class="quiet" onClick={() => { fit(); draw(); again((n) => n + 1); }}>All</button>
        <button type="button" class="quiet" onClick={inView}>Take what is in view</button>
      </div>
      <div class="plot">
        <canvas ref={canvas} tabIndex={0} role="img" class={mode}
          aria-label={`Map of ${images(data.header.points)}. Arrows move, plus and minus zoom, Enter takes what is in view.`}
          onPointerDown={start} onPointerMove={move} onPointerUp={end} onPointerLeave={() => { clearTimeout(hoverTimer.current); setHovered(null); }} onKeyDown={keys} />
        <svg aria-hidden="true">
          {shown.length > 2 && <polygon class="region" points={path(shown)} />}
          {line.length > 1 && <polyline class="drawing" points={path(line)} />}
        </svg>
        {hovered && (
          <div class="hovered" style={{ left: `${Math.min(hovered.x + 12, box.current.width - 116)}px`, bottom: `${Math.min(hovered.y + 12, box.current.height - 140)}px` }}>
            <Picture row={hovered.row} size={192} /><span>{title(hovered.row)}</span>
          </div>
        )}
      </div>
    </div>
  );
}

function Legend({ data, columns, state }: { data: MapData; columns: ColumnFacts[]; state: State }) {
  const { header } = data;
  const column = columns.find((each) => each.name === header.colour);
  return (
    <div class="legend">
      {header.kind === "values" && (
        <ul>{header.names.map((name, place) => {
          const value = column?.values.find((each) => (each.name ?? each.value) === name)?.value ?? name;
          return <li key={name}><button type="button" class="link" disabled={!column} onClick={() => column && go({ where: also(state.where, equals(column, value)) })}>
            <span class="dot" style={{ background: tint(place + 1, DARK.matches) }} aria-hidden="true" />{name}</button></li>;
        })}{(header.other ?? 0) > 0 && <li><span class="dot" style={{ background: tint(10, DARK.matches) }} aria-hidden="true" />{count(header.other!)} others</li>}</ul>
      )}
      {header.kind === "numbers" && header.low !== null && (
        <p class="scale-legend"><span>{short(header.low)}</span><span class="ramp" style={{ background: `linear-gradient(to right, ${[0, 0.5, 1].map((share) => `rgb(${shade(share).join(" ")})`).join(", ")})` }} aria-hidden="true" /><span>{short(header.high!)}</span></p>
      )}
      <p class="muted">{header.sampled ? `A sample of ${count(header.points)} of ${images(header.rows)}.` : `${images(header.points)}.`}
        {header.shares && ` The two axes show ${percent(header.shares[0] + header.shares[1])} of the variance: far apart is different, near is not always alike.`}</p>
    </div>
  );
}

function ApartPanel({ state, columns }: { state: State; columns: ColumnFacts[] }) {
  const given = new URLSearchParams({ inside: state.inside });
  if (state.where.trim()) given.set("where", state.where);
  const { value, error, loading } = useAnswer<ApartAnswer>(`/map/apart?${given}`);
  return (
    <section class="apart" aria-busy={loading}>
      <h3>What sets these {value ? count(value.inside) : ""} apart <button type="button" class="link" onClick={() => go({ inside: "" })}>forget the region</button></h3>
      {error ? <Problem error={error} /> : !value ? <Loading what="Comparing texts, columns and properties …" /> : (
        <>
          {value.differences.length === 0 && <p>{value.tested === 0 ? "Too few images on one side to compare." : "Nothing that chance would not do."}</p>}
          <ul>{value.differences.filter((each) => each.kind !== "text").map((each) => <Line key={each.name} each={each} columns={columns} state={state} />)}</ul>
          {value.differences.some((each) => each.kind === "text") && (
            <>
              <p>They look {value.space === "embedding" ? "" : `to ${value.space} `}more like, or less like:</p>
              <ul>{value.differences.filter((each) => each.kind === "text").map((each) => <Line key={each.name} each={each} columns={columns} state={state} />)}</ul>
            </>
          )}
          {value.no_texts && <Missing command={value.command ?? undefined}>No texts to compare with: {value.no_texts}</Missing>}
          <p class="muted">Against {images(value.others)} outside. Of {count(value.tested)} comparisons those that are listed have a false-discovery rate of at most 5 %. The region was
            drawn on what the model sees, so that it looks different in words is no surprise; that a column differs is.</p>
        </>
      )}
    </section>
  );
}

function Line({ each, columns, state }: { each: Difference; columns: ColumnFacts[]; state: State }) {
  const name = each.name.replace(/^attributes\./, "");
  const q = each.q < 0.001 ? "q < 0.001" : `q = ${each.q.toPrecision(2)}`;
  const column = columns.find((known) => known.name === each.name);
  const width = `${Math.min(100, 100 * Math.abs(each.kind === "text" ? each.effect / 3 : each.effect))}%`;
  if (each.kind === "text") {
    return <li title={q}><span class={each.effect < 0 ? "meter less" : "meter"} style={{ width }} aria-hidden="true" /><span class="name">{each.effect < 0 ? "less" : "more"} “{each.name}”</span><span class="number">{Math.abs(each.effect).toFixed(1)} sd</span></li>;
  }
  const shown = each.kind === "value" && each.name === "label" ? column?.values.find((value) => value.value === each.value)?.name ?? each.value : each.value;
  return (
    <li title={q}>
      <span class={each.effect < 0 ? "meter less" : "meter"} style={{ width }} aria-hidden="true" />
      {each.kind === "value"
        ? <span class="name">{column ? <button type="button" class="link" onClick={() => go({ where: also(state.where, equals(column, each.value!)) })}>{name} = {shown}</button> : `${name} = ${shown}`}: {percent(each.inside)}, of the others {percent(each.others)}</span>
        : <span class="name">{name} is {each.effect > 0 ? "higher" : "lower"}: {short(String(each.inside))}, of the others {short(String(each.others))}</span>}
      <span class="number">{each.kind === "number" ? `D ${each.effect.toFixed(2)}` : ""}</span>
    </li>
  );
}
