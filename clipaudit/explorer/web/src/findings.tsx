// A report's verdicts: what is wrong, how strongly, and which images to look at.
import { useAnswer } from "./api";
import { conditions, go, holds, NO_QUESTION, turned, type State } from "./state";
import type { Answerer, Cell, Finding, FindingsAnswer } from "./types";
import { count, images, interval, Loading, Missing, percent, points, Problem, WHO } from "./words";

export function Findings({ state }: { state: State }) {
  const { value, error } = useAnswer<FindingsAnswer>("/findings");
  if (error) return <Problem error={error} />;
  if (!value) return <Loading what="Reading the report …" />;
  if (!value.report || !value.findings) return <Missing command={value.command}>{value.missing} It takes a minute and says which cues your classes hang on:</Missing>;
  const { report, findings, answers = {} } = value;
  const open = state.finding || findings[0]?.id;
  return (
    <>
      <header class="panel-head">
        <h2>Findings</h2>
        <p class={`gate ${report.gate.outcome}`}>{report.gate.sentence}</p>
        <p class="muted">{images(report.rows)} · CLIP is right in {percent(report.accuracy?.value, 1)} of them</p>
        {report.problems.map((each) => <Problem key={each} error={each} />)}
      </header>
      {findings.length === 0 && <p>Nothing was found. That is a result: the report says what it could have found.</p>}
      {(value.labelled ?? []).map((study) => (
        <p key={study.id}><button type="button" class="link" onClick={() => go({ ...NO_QUESTION, screen: "label", study: study.id, finding: study.finding, open: "", where: "" })}>Labels of “{study.word}”</button> <span class="muted">{study.verdict ? TOLD[study.verdict.outcome] : `${count(study.answered)} so far`}</span></p>
      ))}
      {findings.map((finding) => <Card key={finding.id} finding={finding} state={state} open={finding.id === open} answers={answers} />)}
    </>
  );
}

function Card({ finding, state, open, answers }: { finding: Finding; state: State; open: boolean; answers: Record<string, string> }) {
  const net = finding.answerers.find((each) => each.net)?.net ?? null;
  return (
    <article class={`card ${finding.slug}`}>
      <h3>
        <button type="button" aria-expanded={open} onClick={() => go({ finding: finding.id })}>
          <span class="verdict">{finding.verdict}</span>
          <span class="cue">{finding.class_name ? <>{finding.class_name} <span aria-hidden="true">↔</span><span class="visually-hidden">and</span> {finding.cue}</> : finding.cue}</span>
        </button>
      </h3>
      {open && (
        <>
          <dl class="numbers">
            <div><dt>Strength in the data</dt><dd>{finding.association?.value?.toFixed(2) ?? "–"}<small> D, 0 to 1</small></dd></div>
            <div><dt>Gap it causes</dt><dd>{points(net?.value)}<small> points, net of controls</small></dd><dd class="interval">{interval(net, "points")}</dd></div>
          </dl>
          {finding.cells && <Cells finding={finding} state={state} answers={answers} />}
          <div class="buttons">
            <button type="button" onClick={() => go({ ...NO_QUESTION, screen: "findings", finding: finding.id, where: finding.class_filter ?? "", sort: `-${finding.score_column}`, group: "", open: "" })}>Most of the cue first</button>
            <button type="button" onClick={() => go({ ...NO_QUESTION, screen: "findings", finding: finding.id, where: finding.class_filter ?? "", sort: finding.score_column, group: "", open: "" })}>Least first</button>
            <button type="button" onClick={() => go({ ...NO_QUESTION, screen: "whatif", finding: finding.id, out: finding.heads, along: "", by: "", among: "", sort: "", group: "", open: "" })}>What if its heads were gone?</button>
          </div>
          {finding.label_word !== null && <Labelled finding={finding} />}
          {finding.answerers.length > 0 && <Answerers list={finding.answerers} />}
          <details>
            <summary>What it means, and what to do</summary>
            <p>{finding.meaning}</p>
            <p><strong>Do:</strong> {finding.action}</p>
            {finding.evidence.map((each) => <p key={each}>{each}</p>)}
            {finding.false_alarm.length > 0 && <p><strong>It is no fault</strong> {finding.false_alarm.join(" ")}</p>}
            {finding.no_good_word && <p>No text describes the cue well: look at the images.</p>}
            <p class="muted">Heads: {finding.heads.map((head) => (
              <button type="button" class="link" key={head} onClick={() => go({ screen: "heads", focus: head })}>{head}</button>
            ))}</p>
          </details>
        </>
      )}
    </article>
  );
}

const TOLD: Record<string, string> = { confirmed: "confirmed by labels", dismissed: "dismissed by labels", "not decided": "labels do not decide it yet" };

/** What labels of the cue said, or the way to them. */
function Labelled({ finding }: { finding: Finding }) {
  const study = finding.labelled;
  const open = () => go({ ...NO_QUESTION, screen: "label", finding: finding.id, study: study?.id ?? "", open: "", where: "", group: "", sort: "" });
  return (
    <section class="labelled">
      {study?.verdict && <p><strong class={`outcome-word ${study.verdict.outcome.replace(" ", "-")}`}>{TOLD[study.verdict.outcome]}</strong> {study.verdict.sentence}</p>}
      {!study && <p>Class labels alone cannot tell whether this is a shortcut. Labels of the cue can: 100 to 200 pictures, ten minutes.</p>}
      <div class="buttons"><button type="button" class={study?.verdict ? "" : "primary"} onClick={open}>{!study ? "Label this cue" : study.verdict ? "The labels" : `Go on labelling (${count(study.answered)})`}</button></div>
    </section>
  );
}

const toneOf = (value: number | null | undefined) => (value === null || value === undefined ? "" : value < 0.6 ? "low" : value < 0.85 ? "middle" : "high");

function Cells({ finding, state, answers }: { finding: Finding; state: State; answers: Record<string, string> }) {
  const cells = finding.cells!;
  const name = cells.attribute.replace(/^attributes\./, "");
  const onTest = cells.measured_on !== null && finding.cells!.rows.flat().some((cell) => cell.accuracy);
  const filter = (cell: Cell) => cell.where.join(" and ");
  return (
    <div class="cells">
      <table>
        <caption>How often CLIP is right, by class and {name}. Choose a cell to see its images.</caption>
        <thead><tr><td />{cells.values.map((value) => <th scope="col" key={value}>{value}</th>)}</tr></thead>
        <tbody>
          {cells.rows.map((row) => (
            <tr key={row[0]?.class_name}>
              <th scope="row">{row[0]?.class_name}</th>
              {row.map((cell) => {
                const where = filter(cell);
                return (
                  <td key={cell.value}>
                    <button type="button" class={`cell ${toneOf(cell.accuracy?.value)}`} aria-pressed={conditions(state.where).slice(0, conditions(where).length).join(" and ") === conditions(where).join(" and ")}
                      onClick={() => go({ ...NO_QUESTION, screen: "findings", finding: finding.id, where, sort: "", group: "", open: "" })}>
                      <strong>{percent(cell.accuracy?.value)}</strong>
                      {cell.without && <span>{percent(cell.without.value)} without the cue</span>}
                      <span class="muted">{count(Math.round(cell.count))} in the data</span>
                    </button>
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
      {onTest && <p class="muted">Right: {cells.measured_on?.replace(/^.*, /, "")}. “Without the cue”: its heads replaced by their mean. ✗→✓ on a picture: wrong, and right without it.</p>}
      {state.where && (
        <div class="buttons">
          <button type="button" aria-pressed={holds(state.where, MEASURED)} title="The images that the percentages are of" onClick={() => go({ where: turned(state.where, MEASURED) })}>Measured ones</button>
          <AnswerFilter state={state} finding={finding} answers={answers} />
          <button type="button" aria-pressed={state.group === "clip.predicted"} onClick={() => go({ group: state.group === "clip.predicted" ? "" : "clip.predicted" })}>By answer</button>
        </div>
      )}
    </div>
  );
}

const MEASURED = "audit.rows != association";

const ANSWER = /^[\w.`-]+\.right`? = (true|false)$/;

/** Only the images that an answerer gets right, or wrong: CLIP, CLIP without the cue, a model trained here, given ones. */
function AnswerFilter({ state, finding, answers }: { state: State; finding: Finding; answers: Record<string, string> }) {
  const columns = Object.entries(answers).filter(([column]) => !column.startsWith("clip.without.") || column === finding.without);
  const list: [string, string][] = columns.length ? columns : [["clip.right", "CLIP"]];
  const chosen = conditions(state.where).find((each) => ANSWER.test(each)) ?? "";
  const set = (condition: string) => go({ where: [...conditions(state.where).filter((each) => !ANSWER.test(each)), condition].filter(Boolean).join(" and ") });
  return (
    <label class="inline-choice">Answers <select value={chosen} onChange={(event) => set(event.currentTarget.value)}>
      <option value="">of all kinds</option>
      {list.map(([column, whose]) => (["false", "true"] as const).map((right) => (
        <option key={column + right} value={`${column} = ${right}`}>{right === "true" ? "right" : "wrong"}: {whose}</option>
      )))}
    </select></label>
  );
}

function Answerers({ list }: { list: Answerer[] }) {
  return (
    <table class="answerers">
      <caption>Who hangs on it</caption>
      <thead><tr><th scope="col">Answers of</th><th scope="col">Gap</th><th scope="col">Cue removed</th><th scope="col">Verdict</th></tr></thead>
      <tbody>
        {list.map((each) => (
          <tr key={each.name}>
            <th scope="row">{WHO[each.name] ?? each.name}</th>
            <td>{points(each.gap?.value)}</td>
            <td>{points(each.gap_after?.value)}</td>
            <td>{each.verdict ?? each.state}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
