// The page: left the question, right the wall, above it the one bar.
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { lost, newShards, takeToken, toast, useAnswer, watch } from "./api";
import { Bar } from "./bar";
import { Basket } from "./basket";
import { Beside } from "./beside";
import { CodeDialog, KeysDialog, TagDialog, type Target } from "./dialogs";
import { Facets } from "./facets";
import { Findings } from "./findings";
import { Heads, Strips } from "./heads";
import { ImagePanel } from "./image";
import { MapScreen } from "./map";
import { Search } from "./search";
import { clear, useSelection } from "./selection";
import { get, go, NO_QUESTION, question, SCREENS, useAddress, type Screen, type State } from "./state";
import type { ColumnFacts, FindingsAnswer, HeadsAnswer, RunFacts } from "./types";
import { Copyable, pictureVersion } from "./words";
import { useWall, WallView } from "./wall";
import { WhatIf } from "./whatif";
import { LabelPanel, LabelStage, useLabels } from "./label";
import { Mistakes } from "./mistakes";

const NAMES: Record<Screen, string> = { findings: "Findings", mistakes: "Mistakes", label: "Label", images: "Images", heads: "Heads", search: "Search", map: "Map", whatif: "What if", basket: "Basket" };

function onScreen(screen: Screen, tagsColumn: string): Partial<State> {
  const state = get();
  if (screen === "basket") return { ...NO_QUESTION, screen, where: `${tagsColumn} is not null`, sort: "", group: "", open: "", inside: "" };
  const leaving = state.screen === "basket" ? { where: "" } : {};
  if (screen === "search") return { ...leaving, screen, open: "", focus: "" };
  return { ...NO_QUESTION, ...leaving, screen, open: "", sort: state.sort.includes("score") ? "" : state.sort };
}

function App() {
  const state = useAddress();
  const run = useAnswer<RunFacts>("/run");
  const columns = useAnswer<ColumnFacts[]>("/columns");
  const [dialog, setDialog] = useState<"code" | "keys" | "tag" | null>(null);
  const [side, setSide] = useState<"question" | "images">("question");
  const chosen = useSelection();
  const isLost = lost.use();
  const grown = newShards.use();
  const message = toast.use();
  const parameters = question(state);
  const asked = state.text.length + state.minus.length + state.key.length + state.image.length > 0;
  // heads answer a question only: without one they would be refused
  if (!asked) parameters.delete("head");
  const wall = useWall(parameters.toString());
  const strips = state.screen === "heads" && state.focus !== "" && !asked;
  const labels = useLabels(state);
  const findings = useAnswer<FindingsAnswer>(state.screen === "findings" ? "/findings" : null);
  const without = (findings.value?.findings?.find((each) => each.id === state.finding) ?? findings.value?.findings?.[0])?.without ?? null;
  const heads = useAnswer<HeadsAnswer>(state.screen === "heads" ? "/heads" : null);
  // heads are described, not filtered: their own command says more than that of the wall behind them
  const code = state.screen === "heads" && !asked && heads.value ? { ...heads.value, note: null } : wall.code;
  if (run.value) pictureVersion(run.value.pictures);

  // on a narrow screen the names scroll: the current one is seen
  useEffect(() => document.querySelector("nav [aria-current=page]")?.scrollIntoView({ inline: "nearest", block: "nearest" }), [state.screen]);
  useEffect(() => { document.title = run.value ? `${run.value.name} · clipaudit` : "clipaudit"; }, [run.value]);
  useEffect(() => { setSide(state.open || state.screen === "map" ? "question" : get().where || asked || (state.screen === "label" && state.study) ? "images" : "question"); }, [state.open, state.where, asked, state.screen, state.study]);
  useEffect(() => {
    if (!message) return;
    const timer = setTimeout(() => toast.set(null), 8000);
    return () => clearTimeout(timer);
  }, [message]);

  const target = (): Target | null => {
    if (chosen.size) return { images: [...chosen.values()].map(({ shard, index }) => ({ shard, index })) };
    if (state.open) {
      const [shard, index] = state.open.split("/").map(Number);
      return { images: [{ shard: shard!, index: index! }] };
    }
    // a tag for everything that a question ranks, for the whole run, or for what is still being asked, is never what is meant
    if (asked || wall.loading || !wall.matched || wall.matched === wall.total || !(state.where.trim() || state.inside)) return null;
    return { where: state.where.trim() ? [state.where] : [], inside: state.inside || null, count: wall.matched };
  };
  const [tagged, setTagged] = useState<Target | null>(null);
  const tag = () => {
    const now = target();
    setTagged(now);
    if (now) setDialog("tag");
    else toast.set({ text: wall.loading ? "The images are still being counted." : "Choose images, or filter them, to tag them." });
  };
  useEffect(() => {
    const keys = (event: KeyboardEvent) => {
      const typing = event.target instanceof HTMLElement && /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
      if (typing || event.ctrlKey || event.metaKey || event.altKey || dialog) return;
      if (event.key === "/") { event.preventDefault(); setSide("images"); requestAnimationFrame(() => document.getElementById("filter")?.focus()); }
      else if (event.key === "?") setDialog("keys");
      else if (event.key === "t" && get().screen !== "label") { event.preventDefault(); tag(); }
      else if (event.key === "Escape") { if (chosen.size) clear(); else if (get().open) go({ open: "" }); }
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  });

  return (
    <div class="page" data-side={side} data-screen={state.open ? "image" : state.screen} data-maps={state.open && state.heat.length ? "yes" : undefined}>
      <a class="skip" href="#wall">To the images</a>
      <header class="top">
        <span class="brand"><img src="/assets/icon.svg" alt="" width="22" height="22" /><span>{run.value?.name ?? "clipaudit"}</span></span>
        <nav aria-label="Screens">
          {SCREENS.filter((screen) => screen !== "label").map((screen) => (
            <button key={screen} type="button" aria-current={(state.screen === "label" ? "findings" : state.screen) === screen ? "page" : undefined}
              onClick={() => { go(onScreen(screen, run.value?.tags_column ?? "tags")); if (screen !== "images") setSide("question"); }}>{NAMES[screen]}</button>
          ))}
        </nav>
        <button type="button" class="quiet help" aria-label="Keys" onClick={() => setDialog("keys")}>?</button>
      </header>
      {isLost && (
        <div class="banner bad" role="alert">
          <p><strong>The server does not answer.</strong> What you see is from before. Start it again and this page goes on by itself:</p>
          <Copyable text={run.value?.commands.restart ?? "clipaudit explore RUN"} name="command" />
        </div>
      )}
      {run.error && <div class="banner bad" role="alert">{run.error}</div>}
      {grown > 0 && <div class="banner" role="status">The run has grown by {grown} {grown === 1 ? "shard" : "shards"} since the server was started. Start it again to see them.</div>}
      {run.value?.pictures_missing && <div class="banner" role="status">The pictures are not at hand: {run.value.pictures_missing}. Everything else works.</div>}
      <div class="sides" role="group" aria-label="What is shown">
        <button type="button" aria-pressed={side === "question"} onClick={() => setSide("question")}>{state.open ? "Image" : NAMES[state.screen]}</button>
        <button type="button" aria-pressed={side === "images"} onClick={() => setSide("images")}>{state.screen === "label" ? "Picture" : "Wall"}</button>
      </div>
      <main>
        <section class={`panel ${state.screen}`} aria-label={state.open ? "Image" : NAMES[state.screen]} tabIndex={-1} key={state.open ? "image" : state.screen}>
          {state.open ? <ImagePanel open={state.open} state={state} onTag={tag} />
            : state.screen === "findings" ? <Findings state={state} />
            : state.screen === "mistakes" ? <Mistakes state={state} />
            : state.screen === "label" ? <LabelPanel labels={labels} state={state} run={run.value} />
            : state.screen === "images" ? <Facets state={state} columns={columns.value ?? []} run={run.value} />
            : state.screen === "heads" ? <Heads state={state} />
            : state.screen === "search" ? <Search state={state} />
            : state.screen === "map" ? <MapScreen state={state} columns={columns.value ?? []} />
            : state.screen === "whatif" ? <WhatIf state={state} run={run.value} />
            : <Basket state={state} run={run.value} />}
        </section>
        <section class="right" id="wall" aria-label="Wall of images">
          {state.screen === "label" ? <LabelStage labels={labels} /> : <>
          <Bar state={state} wall={wall} columns={columns.value ?? []} run={run.value} hasQuestion={asked} onCode={() => setDialog("code")} onTag={tag} />
          {asked && state.beside.length > 0 ? <Beside state={state} /> : strips ? <Strips head={state.focus} state={state} /> : <WallView wall={wall} state={state} hasQuestion={asked} without={without} />}
          </>}
        </section>
      </main>
      {message && (
        <div class="toast" role="status">{message.text} {message.undo && <button type="button" class="link" onClick={() => { message.undo!(); toast.set(null); }}>Undo</button>}</div>
      )}
      {dialog === "keys" && <KeysDialog onClose={() => setDialog(null)} />}
      {dialog === "code" && <CodeDialog code={code} onClose={() => setDialog(null)} />}
      {dialog === "tag" && run.value && tagged && <TagDialog target={tagged} run={run.value} onClose={() => setDialog(null)} />}
    </div>
  );
}

takeToken();
void watch();
render(<App />, document.getElementById("app")!);
