// The wall of images: only what is seen is in the page, whatever the number of images.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { ask, lost, Refused, revision } from "./api";
import { CAPTION, layout, placeOf, step, visible } from "./layout";
import { idOf, toggle, useSelection } from "./selection";
import { go, type State } from "./state";
import type { AsCode, Group, Row, RowsAnswer } from "./types";
import { count, images, Loading, Missing, Picture, Problem, short } from "./words";

const PAGE = 200;
const TALLEST = 12_000_000;
export const SIZES: Record<string, number> = { s: 84, m: 128, l: 208 };

export interface Wall {
  total: number;
  matched: number;
  groups: Group[];
  code: AsCode | null;
  whyEmpty: string | null;
  error: string | null;
  loading: boolean;
  address: string;
  row: (position: number) => Row | undefined;
  want: (first: number, last: number) => void;
}

interface Pages { address: string; pages: Map<number, Row[]>; pending: Set<number> }

/** Asks for the wall's rows, a page at a time and only those that are seen. */
export function useWall(address: string): Wall {
  const stamp = revision.use();
  const [answer, setAnswer] = useState<{ address: string; first: RowsAnswer | null; error: string | null; loading: boolean }>(
    { address, first: null, error: null, loading: true });
  const [, again] = useState(0);
  const store = useRef<Pages>({ address: "", pages: new Map(), pending: new Set() });

  useEffect(() => {
    const fresh: Pages = { address, pages: new Map(), pending: new Set() };
    let stopped = false;
    setAnswer((before) => ({ ...before, loading: true }));
    ask<RowsAnswer>(`/rows?${address}&limit=${PAGE}`).then(
      (first) => {
        if (stopped) return;
        fresh.pages.set(0, first.rows);
        store.current = fresh;
        setAnswer({ address, first, error: null, loading: false });
      },
      (error) => {
        if (stopped) return;
        setAnswer((before) => error instanceof Refused
          ? { address, first: null, error: error.message, loading: false }
          : { ...before, loading: false });
      },
    );
    return () => { stopped = true; };
  }, [address, stamp]);

  const want = (first: number, last: number) => {
    const pages = store.current;
    for (let page = Math.floor(first / PAGE); page <= Math.floor(last / PAGE); page++) {
      if (pages.pages.has(page) || pages.pending.has(page) || pages.address !== address || lost.value) continue;
      pages.pending.add(page);
      ask<RowsAnswer>(`/rows?${address}&offset=${page * PAGE}&limit=${PAGE}`)
        .then((more) => { pages.pages.set(page, more.rows); if (store.current === pages) again((n) => n + 1); })
        .catch(() => undefined)
        .finally(() => pages.pending.delete(page));
    }
  };
  return {
    total: answer.first?.total ?? 0,
    matched: answer.first?.matched ?? 0,
    groups: answer.first?.groups ?? [],
    code: answer.first?.code ?? null,
    whyEmpty: answer.first?.why_empty ?? null,
    error: answer.error,
    loading: answer.loading,
    address: answer.address,
    row: (position) => store.current.pages.get(Math.floor(position / PAGE))?.[position % PAGE],
    want,
  };
}

/** Who is wrong on an image; an arrow where taking the cue out mends or breaks CLIP's answer. */
function Marks({ row, without }: { row: Row; without: string | null }) {
  const clip = row.right["report.clip.right"];
  const after = without === null ? null : row.right[without] ?? null;
  const marks: [string, boolean, string][] = [];
  const sign = (right: boolean) => (right ? "✓" : "✗");
  const said = (right: boolean) => (right ? "right" : "wrong");
  if (typeof clip === "boolean" && typeof after === "boolean" && clip !== after) marks.push([`CLIP ${sign(clip)}→${sign(after)}`, after, `CLIP ${said(clip)}, ${said(after)} without the cue`]);
  else if (clip === false) marks.push(["CLIP ✗", false, "CLIP wrong"]);
  for (const [column, right] of Object.entries(row.right)) {
    if (right === false && !/^(report\.clip|clip\.without\..*)\.right$/.test(column)) {
      const name = column === "rehearsed.right" ? "trained" : column.replace(/^given\.|\.right$/g, "");
      marks.push([`${name} ✗`, false, `${name} wrong`]);
    }
  }
  if (!marks.length) return null;
  return <span class="marks">{marks.map(([text, good, about]) => <span key={text} class={good ? "good" : "bad"}><span aria-hidden="true">{text}</span><span class="visually-hidden">{about} </span></span>)}</span>;
}

export function WallView({ wall, state, hasQuestion, without }: { wall: Wall; state: State; hasQuestion: boolean; without: string | null }) {
  const scroller = useRef<HTMLDivElement>(null);
  const chosen = useSelection();
  const [box, setBox] = useState({ width: 0, height: 0 });
  const [top, setTop] = useState(0);
  const [active, setActive] = useState(0);
  const takeFocus = useRef(false);

  useLayoutEffect(() => {
    const element = scroller.current;
    if (!element) return;
    const measure = () => {
      const style = getComputedStyle(element);
      setBox({ width: element.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight), height: element.clientHeight });
    };
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);

  useEffect(() => {
    setActive(0);
    if (scroller.current) scroller.current.scrollTop = 0;
    setTop(0);
  }, [wall.address]);

  const size = SIZES[state.size] ?? SIZES["m"]!;
  const plan = useMemo(() => layout(Math.max(160, box.width), size, wall.matched, wall.groups), [box.width, size, wall.matched, wall.groups]);
  // browsers end pages at some height: taller walls scroll faster than the finger
  const stretch = plan.height > TALLEST ? (plan.height - box.height) / (TALLEST - box.height) : 1;
  const virtualTop = top * stretch;
  const seen = visible(plan, virtualTop - 2 * plan.row, virtualTop + box.height + 2 * plan.row);
  const first = seen.tiles[0]?.position ?? 0;
  const last = seen.tiles.at(-1)?.position ?? 0;
  useEffect(() => { if (wall.matched) wall.want(first, last); }, [first, last, wall.address, wall.matched]);

  const show = (position: number) => {
    const place = placeOf(plan, position);
    const element = scroller.current;
    if (!place || !element) return;
    const above = place.y < virtualTop;
    const below = place.y + plan.row > virtualTop + box.height;
    if (above) element.scrollTop = Math.max(0, place.y - 8) / stretch;
    else if (below) element.scrollTop = (place.y + plan.row - box.height + 8) / stretch;
  };

  useLayoutEffect(() => {
    if (!takeFocus.current) return;
    const tile = scroller.current?.querySelector<HTMLElement>(`[data-position="${active}"]`);
    if (tile) {
      tile.focus({ preventScroll: true });
      takeFocus.current = false;
    }
  });

  const keys = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const row = wall.row(active);
    if (/^(Arrow(Left|Right|Up|Down)|Home|End|PageUp|PageDown)$/.test(event.key)) {
      event.preventDefault();
      const next = step(plan, active, event.key, wall.matched);
      takeFocus.current = true;
      setActive(next);
      show(next);
      const following = wall.row(next);
      if (state.open && following) go({ open: idOf(following) }, true);
    } else if (event.key === "x" && row) {
      event.preventDefault();
      toggle(row);
    } else if (event.key === "m" && row) {
      event.preventDefault();
      go({ screen: "search", key: [`${row.shard}/${row.key}`], text: [], minus: [], image: [], sort: "", open: "" });
    }
  };

  const marked = state.screen === "findings" || state.screen === "mistakes";
  const tabStop = seen.tiles.some((tile) => tile.position === active) ? active : first;
  return (
    <div class="wall" ref={scroller} onScroll={(event) => setTop(event.currentTarget.scrollTop)} tabIndex={-1}>
      {wall.error && (
        <div class="refused">
          <Problem error={wall.error} />
          {(state.where || state.sort || state.group || state.inside) && <button type="button" onClick={() => go({ where: "", sort: "", group: "", inside: "" })}>Show all images again</button>}
        </div>
      )}
      {!wall.error && !wall.loading && wall.matched === 0 && (
        <Missing>{state.screen === "basket" && /^\S+ is not null$/.test(state.where) ? "Nothing is tagged yet: on any other screen choose images with x, or filter them, and press t."
          : <>No image passes the filter{wall.whyEmpty ? `: no image has ${wall.whyEmpty}.` : "."}</>}</Missing>
      )}
      {wall.loading && wall.matched === 0 && <Loading what={hasQuestion ? "Scoring every image. The first question loads the model …" : "Loading …"} />}
      <div class="tiles" role="group" aria-label={`Images, ${count(wall.matched)} of ${count(wall.total)}`} aria-busy={wall.loading}
        style={{ height: `${Math.min(plan.height, TALLEST)}px` }} onKeyDown={keys}>
        {seen.headers.map(({ section, y }) => (
          <h3 class="group" key={`g${section.start}`} style={{ transform: `translateY(${y - virtualTop + top}px)` }}>
            {section.group?.name ?? section.group?.value ?? "no value"} <span>{images(section.count)}</span>
          </h3>
        ))}
        {seen.tiles.map(({ position, x, y }) => {
          const row = wall.row(position);
          const place = { transform: `translate(${x}px, ${y - virtualTop + top}px)`, width: `${plan.tile}px` };
          if (!row) return <div key={position} class="tile empty" style={{ ...place, height: `${plan.tile}px` }} />;
          const id = idOf(row);
          return (
            <button key={id} type="button" class="tile" data-position={position} tabIndex={position === tabStop ? 0 : -1}
              aria-pressed={chosen.has(id)} aria-current={state.open === id} style={place}
              onFocus={() => setActive(position)}
              onClick={(event) => {
                setActive(position);
                if (event.shiftKey || event.ctrlKey || event.metaKey) toggle(row);
                else go({ open: id });
              }}>
              <span class="frame" style={{ height: `${plan.tile}px` }}>
                <Picture row={row} size={plan.tile * Math.min(2, devicePixelRatio)} hold={wall.loading} />
                {marked && <Marks row={row} without={without} />}
                {row.tags.length > 0 && <span class="tagged"><span class="visually-hidden">tagged </span>{row.tags.join(", ")}</span>}
                {chosen.has(id) && <span class="check" aria-hidden="true">✓</span>}
              </span>
              <span class="caption" style={{ height: `${CAPTION}px` }}>
                <span>{row.class_name ?? row.label ?? row.key}</span>
                <span class="number">{row.score !== null ? row.score.toFixed(3) : row.value === null ? "" : Number.isNaN(Number(row.value)) ? row.value : short(row.value)}</span>
              </span>
              <span class="visually-hidden">{row.class_name ?? row.label ? row.key : ""} {row.caption}</span>
            </button>
          );
        })}
      </div>
    </div>
  );
}
