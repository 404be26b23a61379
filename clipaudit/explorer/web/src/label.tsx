// Labelling a cue: one picture at a time, two keys, and what the answers add up to.
import { useEffect, useRef, useState } from "preact/hooks";
import { API, ask, changed, hasToken, post, toast, useAnswer } from "./api";
import { go, NO_QUESTION, type State } from "./state";
import type { FindingsAnswer, LabelVerdict, LabelView, RunFacts, SideShare } from "./types";
import { count, images, interval, Loading, Missing, original, percent, Picture, points, Problem } from "./words";

type Answer = "has" | "lacks" | "unsure";
interface Place { shard: number; index: number }

const SESSION = crypto.randomUUID().slice(0, 36);
const same = (a: Place, b: Place) => a.shard === b.shard && a.index === b.index;
export const author = () => localStorage.getItem("clipaudit-author") ?? "";
const OUTCOMES: Record<string, string> = { confirmed: "confirmed", dismissed: "dismissed", "not decided": "not decided yet" };

export interface Labels {
  view: LabelView | null;
  error: string | null;
  queue: Place[];
  answer: (answer: Answer) => void;
  undo: () => void;
  finish: () => void;
  begin: (finding: string, word: string) => void;
}

/** The answers of one study: sent one after the other, shown at once. */
export function useLabels(state: State): Labels {
  const [view, setView] = useState<LabelView | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [queue, showQueue] = useState<Place[]>([]);
  // keys come faster than the page is drawn: the queue of this moment decides which image an answer is for
  const present = useRef<Place[]>([]);
  const setQueue = (change: (now: Place[]) => Place[]) => { present.current = change(present.current); showQueue(present.current); };
  const line = useRef(Promise.resolve());
  const sent = useRef<Place[]>([]);
  const active = state.screen === "label";

  const take = (next: LabelView) => {
    setView(next);
    setError(null);
    setQueue((now) => [...now, ...next.next.filter((each) => !now.some((other) => same(each, other)) && !sent.current.some((other) => same(each, other)))]);
  };
  useEffect(() => {
    if (!active || !state.study || view?.study.id === state.study) return;
    setQueue(() => []);
    ask<LabelView>(`/labels/${encodeURIComponent(state.study)}?session=${SESSION}`).then(take, (problem) => setError(problem.message));
  }, [active, state.study]);

  const running = view?.audit?.running ?? false;
  useEffect(() => {
    if (!active || !running || !view) return;
    const timer = setInterval(() => {
      ask<LabelView>(`/labels/${view.study.id}?session=${SESSION}`).then((next) => { take(next); if (!next.audit?.running) changed(); }, () => undefined);
    }, 1500);
    return () => clearInterval(timer);
  }, [active, running, view?.study.id]);

  const write = (path: string, body: object, failed?: () => void) => {
    line.current = line.current
      .then(() => post<LabelView>(path, { author: author(), session: SESSION, ...body }))
      .then(take, (problem) => { failed?.(); toast.set({ text: problem.message }); });
    return line.current;
  };
  return {
    view,
    error,
    queue,
    answer: (answer) => {
      const image = present.current[0];
      if (!image || !view) return;
      setQueue((now) => now.slice(1));
      sent.current.push(image);
      const done = () => { sent.current = sent.current.filter((each) => each !== image); };
      void write(`/labels/${view.study.id}/answers`, { ...image, answer }, () => setQueue((now) => [image, ...now])).then(done);
    },
    undo: () => {
      const latest = view?.latest;
      if (!latest || sent.current.length) return;
      void write(`/labels/${view.study.id}/undo`, { event: latest.id })
        .then(() => setQueue((now) => [{ shard: latest.shard, index: latest.index }, ...now.filter((each) => !same(each, latest))]));
    },
    finish: () => { if (view) void write(`/labels/${view.study.id}/finish`, {}); },
    begin: (finding, word) => {
      post<LabelView>("/labels", { finding, word, author: author(), session: SESSION }).then((next) => {
        setQueue(() => []);
        take(next);
        go({ study: next.study.id }, true);
      }, (problem) => setError(problem.message));
    },
  };
}

/** Left: what the answers say so far, and what follows from them. */
export function LabelPanel({ labels, state, run }: { labels: Labels; state: State; run: RunFacts | null }) {
  const { view, error } = labels;
  if (run && !run.write) return <><Back /><Missing command={run.commands.write}>The page only reads. To label images, start it with --write:</Missing></>;
  if (!hasToken()) return <><Back /><Missing>This window may not write: open the address that <code>clipaudit explore</code> printed.</Missing></>;
  if (!state.study) return <><Back />{error && <Problem error={error} />}<Begin labels={labels} finding={state.finding} /></>;
  if (error && !view) return <><Back /><Problem error={error} /></>;
  if (!view) return <><Back /><Loading what="Reading the labels …" /></>;
  const { study, sides, audit } = view;
  const judged = view.verdict !== null && view.verdict.outcome !== "not decided" && view.verdict.labels === view.answered;
  const enough = view.more === 0 && !judged;
  const done = judged ? 1 : study.images && view.answered ? view.answered / (view.answered + (view.more ?? study.images)) : 0;
  return (
    <>
      <Back />
      <header class="panel-head">
        <h2>Which pictures show “{study.word}”?</h2>
        <p class="muted">{sides.map((side) => side.class_name).join(" against ")}. Answer what you see; the pictures are drawn so that your answers stand for all of them.</p>
      </header>
      <section class="label-progress" aria-live="polite">
        <p><strong>{count(view.answered)} labelled</strong> · {judged ? "judged" : enough ? "enough to judge" : view.more === null ? `about ${count(study.images - view.answered)} or more to go` : `about ${count(view.more)} more`}</p>
        <div class="progress" role="progressbar" aria-label="Labels" aria-valuemin={0} aria-valuemax={100} aria-valuenow={Math.round(100 * done)}><span style={{ width: `${100 * done}%` }} /></div>
      </section>
      {view.verdict && <Verdict verdict={view.verdict} stale={view.verdict.labels !== view.answered} />}
      {audit?.running && <Loading what={`Making the report with the column ${study.column} … ${audit.seconds} seconds`} />}
      {audit?.failure && <Problem error={audit.failure} />}
      <section>
        <h3>Pictures with “{study.word}”, so far</h3>
        <div class="shares">{sides.map((side) => <Share key={side.class_name} side={side} />)}</div>
        {view.d && <p class="muted">A difference of {points(view.d.value)} points ({interval(view.d, "points")}). Below {Math.round(100 * study.delta)} it counts as none.</p>}
      </section>
      <p class="muted">
        {view.repeats > 0 ? <>{view.disagreements} of {images(view.repeats)} shown twice were answered differently: about {percent(view.error?.value, 0)} of the answers slip. </> : "Some pictures come twice, to measure how often an answer slips. "}
        {view.unsure > 0 && `${images(view.unsure)} nobody could tell.`}
      </p>
      <div class="buttons">
        <button type="button" class={enough ? "primary" : ""} disabled={audit?.running || !sides.every((side) => side.share)} onClick={labels.finish}>Judge with these labels</button>
      </div>
      <p class="muted">This makes the column <code>{study.column}</code> of the run and the report anew. Earlier is allowed: the report then says what is missing.</p>
      <p><a href={`${API}/labels/${study.id}/labels.csv`} download>labels.csv</a> <span class="muted">each answer with its chance to be drawn</span></p>
    </>
  );
}

function Back() {
  return <p><button type="button" class="link" onClick={() => go({ screen: "findings", study: "", open: "" })}>← Findings</button></p>;
}

function Begin({ labels, finding }: { labels: Labels; finding: string }) {
  const { value } = useAnswer<FindingsAnswer>("/findings");
  const card = value?.findings?.find((each) => each.id === finding);
  const [word, setWord] = useState<string | null>(null);
  const [name, setName] = useState(author());
  const [waiting, wait] = useState(false);
  useEffect(() => { if (labels.error) wait(false); }, [labels.error]);
  if (!value) return <Loading what="Reading the report …" />;
  if (!card || card.label_word === null) return <Missing>Choose a candidate among the findings to label its cue.</Missing>;
  return (
    <form class="tag-form" onSubmit={(event) => { event.preventDefault(); localStorage.setItem("clipaudit-author", name); wait(true); labels.begin(finding, word ?? card.label_word!); }}>
      <h2>Label this cue</h2>
      <p>“{card.cue}” goes with {card.class_name}. Whether it is a shortcut, labels of the cue itself decide: you say of 100 to 200 pictures whether they show it.</p>
      <label class="stacked">What is to be seen? <input value={word ?? card.label_word} maxLength={60} required onInput={(event) => setWord(event.currentTarget.value)} /></label>
      <label class="stacked">Your name <input value={name} maxLength={80} placeholder="optional" onInput={(event) => setName(event.currentTarget.value)} /></label>
      <div class="buttons"><button type="submit" class="primary" disabled={waiting}>{waiting ? "Drawing the pictures …" : "Begin"}</button></div>
    </form>
  );
}

function Share({ side }: { side: SideShare }) {
  const { share } = side;
  return (
    <div class="share-line">
      <span class="name">{side.class_name}</span>
      <span class="scale" aria-hidden="true">{share && <><span class="range" style={{ left: `${100 * (share.low ?? 0)}%`, width: `${100 * ((share.high ?? 1) - (share.low ?? 0))}%` }} /><span class="point" style={{ left: `${100 * (share.value ?? 0)}%` }} /></>}</span>
      <span class="number">{share ? <>{percent(share.value)} <small>{interval(share, "percent")}</small></> : "–"}</span>
    </div>
  );
}

function Verdict({ verdict, stale }: { verdict: LabelVerdict; stale: boolean }) {
  return (
    <article class={`card outcome ${verdict.outcome.replace(" ", "-")}`} role="status">
      <h3>Candidate → {OUTCOMES[verdict.outcome]}</h3>
      <p>{verdict.sentence}</p>
      {verdict.more !== null && verdict.outcome === "not decided" && <p>About {count(verdict.more)} more labels decide it.</p>}
      <p class="muted">{verdict.verdict}, by {count(verdict.labels)} labels alone.{stale && " There are more answers since: judge again."}</p>
      <div class="buttons"><button type="button" onClick={() => go({ ...NO_QUESTION, screen: "findings", study: "", finding: verdict.found, where: "", open: "" })}>See the findings</button></div>
    </article>
  );
}

/** Right: the picture, and the answers. */
export function LabelStage({ labels }: { labels: Labels }) {
  const { view, queue } = labels;
  const image = queue[0];
  useEffect(() => {
    const keys = (event: KeyboardEvent) => {
      const typing = event.target instanceof HTMLElement && /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
      if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat || document.querySelector("dialog[open]")) return;
      const answer = ({ j: "has", ArrowRight: "has", f: "lacks", ArrowLeft: "lacks", u: "unsure", ArrowDown: "unsure" } as Record<string, Answer>)[event.key];
      if (answer) { event.preventDefault(); labels.answer(answer); }
      else if (event.key === "z" || event.key === "Backspace") { event.preventDefault(); labels.undo(); }
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  });
  useEffect(() => { for (const next of queue.slice(1, 3)) new Image().src = original(next); }, [queue]);
  if (!view) return <div class="wall stage" />;
  return (
    <div class="wall stage">
      {image ? <div class="stage-picture" data-place={`${image.shard}/${image.index}`}><Picture key={`${image.shard}/${image.index}`} row={{ ...image, key: "" }} size={384} src={original(image)} alt="The picture to label" /></div>
        : view.answered >= view.study.images ? <Missing>Every picture that was drawn is labelled.</Missing> : <Loading what="The next picture …" />}
      <div class="stage-bar">
        <p class="stage-question">Does it show <strong>{view.study.word}</strong>?</p>
        <div class="stage-answers" role="group" aria-label={`Does it show ${view.study.word}?`}>
          <button type="button" disabled={!image} onClick={() => labels.answer("lacks")}>No <kbd>f</kbd></button>
          <button type="button" disabled={!image} onClick={() => labels.answer("unsure")}>Cannot tell <kbd>u</kbd></button>
          <button type="button" class="primary" disabled={!image} onClick={() => labels.answer("has")}>Yes <kbd>j</kbd></button>
        </div>
        <span class="stage-foot"><button type="button" class="quiet" disabled={!view.latest} onClick={labels.undo}>Undo <kbd>z</kbd></button>
          <span class="muted">{count(view.answered)} labelled{view.more ? `, about ${count(view.more)} more` : view.more === 0 ? ", enough to judge" : ""}</span></span>
      </div>
    </div>
  );
}
