// What if some heads, or one text in them, were gone: groups anew with every tick, beside random sets of heads.
import { useState } from "preact/hooks";
import { hasToken, post, revision, toast, useAnswer } from "./api";
import { also, go, type State } from "./state";
import type { Arm, Around, GroupChange, HeadFacts, HeadsAnswer, RunFacts, WhatIfAnswer, WhatIfOptions } from "./types";
import { Copyable, count, images, Loading, Missing, percent, points, Problem } from "./words";

export function WhatIf({ state, run }: { state: State; run: RunFacts | null }) {
  const options = useAnswer<WhatIfOptions>("/what-if/options");
  const heads = useAnswer<HeadsAnswer>("/heads");
  const finding = state.by ? undefined : options.value?.findings?.find((each) => each.id === state.finding && each.attribute) ?? options.value?.findings?.find((each) => each.attribute);
  const by = state.by || (finding ? "" : options.value?.columns?.[0]?.name ?? "");
  // on the images that the finding was measured on, unless something else is asked for
  const among = state.among === "*" ? "" : state.among || finding?.among || "";
  const given = new URLSearchParams();
  for (const head of state.out) given.append("out", head);
  if (state.along) given.set("along", state.along);
  if (by) given.set("by", by);
  if (finding) given.set("finding", finding.id);
  if (among) given.append("where", among);
  const { value, error, loading } = useAnswer<WhatIfAnswer>(options.value && options.value.missing === null ? `/what-if?${given}` : null);
  const head = <header class="panel-head"><h2>What if</h2></header>;
  if (options.error) return <>{head}<Problem error={options.error} /></>;
  if (!options.value || !heads.value) return <>{head}<Loading what="Reading the heads …" /></>;
  if (options.value.missing !== null) return <>{head}<Missing command={options.value.command}>Nothing can be answered yet: {options.value.missing}.</Missing></>;
  return (
    <>
      {head}
      {error ? <Problem error={error} /> : value ? <Verdict value={value} state={state} /> : <Loading what="Adding up what every head does to every answer, once …" />}
      <Choose state={state} heads={heads.value.heads} options={options.value} />
      {value && <Groups value={value} busy={loading} among={among} />}
      <div class="bar-controls">
        <label>Groups by <select value={finding ? "" : by} onChange={(event) => go({ by: event.currentTarget.value })}>
          {options.value.findings.some((each) => each.attribute) ? <option value="">the finding's column</option> : !by && <option value="">class</option>}
          {options.value.columns.map((each) => <option key={each.name} value={each.name}>{each.short}</option>)}
        </select></label>
      </div>
      <Measured value={value} state={state} among={among} options={options.value} />
      {value && <Keep state={state} run={run} value={value} among={among} />}
    </>
  );
}

const share = (value: number | null | undefined) => percent(value, value !== null && value !== undefined && (value < 0.1 || value > 0.9) ? 1 : 0);
const list = (names: string[]) => (names.length <= 3 ? names.join(", ") : `${names.length} heads`);

/** The screen's one message. */
function Verdict({ value, state }: { value: WhatIfAnswer; state: State }) {
  if (state.out.length === 0) return <p class="muted">Tick heads: every group is answered anew without them.</p>;
  const what = state.along ? `“${state.along}” in ${list(state.out)}` : list(state.out);
  return (
    <div class="answer" aria-live="polite">
      {value.worst && value.worst_name && (
        <p class="headline">Without {what} the worst group goes from {share(value.worst.before)} to <strong>{share(value.worst.after)}</strong>.</p>
      )}
      {value.gap && <Gap gap={value.gap} sets={value.sets} by={(value.by ?? "").replace(/^attributes\./, "")} />}
      <p class="muted">All images: {percent(value.accuracy.before, 1)} right, then {percent(value.accuracy.after, 1)}.
        {value.sets === 0 && " No random sets to compare with: too few other heads in these layers."}</p>
    </div>
  );
}

function Gap({ gap, sets, by }: { gap: NonNullable<WhatIfAnswer["gap"]>; sets: number; by: string }) {
  const { before, after } = gap.gap;
  const falls = (before ?? 0) >= (after ?? 0);
  const plain = (value: number | null) => (100 * Math.abs(value ?? 0)).toFixed(1);
  const [low, high] = [gap.net_low ?? 0, gap.net_high ?? 0];
  return (
    <p>The gap that {by} makes {falls ? "falls" : "grows"} from {(100 * (before ?? 0)).toFixed(1)} to {(100 * (after ?? 0)).toFixed(1)} points.
      {gap.net !== null && <> That is <strong>{plain(gap.net)} points {gap.net >= 0 ? "less" : "more"}</strong> than without {sets} random sets of as many heads of the
        same layers ({low < 0 && high > 0 ? `${points(-high)} to ${points(-low)}` : `${plain(low >= 0 ? low : high)} to ${plain(low >= 0 ? high : low)}`}){low <= 0 && high >= 0 ? ": it may be chance." : "."}</>}</p>
  );
}

function Choose({ state, heads, options }: { state: State; heads: HeadFacts[]; options: WhatIfOptions }) {
  const [draft, setDraft] = useState(state.along);
  const layers = [...new Set(heads.map((each) => each.layer))].sort((a, b) => b - a);
  const toggle = (head: string) => go({ out: state.out.includes(head) ? state.out.filter((each) => each !== head) : [...state.out, head] });
  const along = (text: string) => { setDraft(text); go({ along: text.trim() }); };
  return (
    <section class="take-out">
      <h3>Take out {state.out.length > 0 && <span class="muted">{state.out.length} of {heads.length} heads <button type="button" class="link" onClick={() => go({ out: [], along: "" })}>none</button></span>}</h3>
      {options.findings.length > 0 && (
        <div class="buttons">
          {options.findings.slice(0, 5).map((each) => (
            <button type="button" key={each.id} aria-pressed={each.heads.length > 0 && each.heads.length === state.out.length && each.heads.every((head) => state.out.includes(head))}
              onClick={() => { setDraft(""); go({ out: each.heads, along: "", finding: each.id, by: "", among: "" }); }}>the heads of “{each.name}”</button>
          ))}
        </div>
      )}
      <div class="layers">
        {layers.map((layer) => (
          <fieldset key={layer} class="layer">
            <legend>Layer {layer}</legend>
            {heads.filter((each) => each.layer === layer).map((each) => (
              <label key={each.head} class={state.out.includes(each.head) ? "tick on" : "tick"} title={[each.role, ...each.texts.slice(0, 3).map((text) => text.text)].filter(Boolean).join("; ")}>
                <input type="checkbox" checked={state.out.includes(each.head)} onChange={() => toggle(each.head)} aria-label={`${each.head} ${each.role ?? ""}`} />
                <span>{each.head.replace(/^L\d+/, "")}</span>
              </label>
            ))}
          </fieldset>
        ))}
      </div>
      <form onSubmit={(event) => { event.preventDefault(); along(draft); }}>
        <label class="stacked">Only what they hold along a text
          <input value={draft} maxLength={300} placeholder="whole heads, or: a photo of water" onInput={(event) => setDraft(event.currentTarget.value)} onChange={(event) => along(event.currentTarget.value)} /></label>
        {state.along && <button type="button" class="link" onClick={() => along("")}>whole heads again</button>}
      </form>
    </section>
  );
}

function Groups({ value, busy, among }: { value: WhatIfAnswer; busy: boolean; among: string }) {
  return (
    <section class="changes" aria-busy={busy}>
      <table>
        <caption>How often CLIP is right: <span class="key before" aria-hidden="true" /> before, <span class="key after" aria-hidden="true" /> after
          {value.sets > 0 && <>, <span class="key band" aria-hidden="true" /> random heads</>}. Choose a group to see its images.</caption>
        <thead><tr><th scope="col">Group</th><th scope="col"><span class="visually-hidden">From 0 to 100 %</span></th><th scope="col" class="number">Right</th></tr></thead>
        <tbody>{value.groups.map((group) => <GroupLine key={`${group.class_name} ${group.value}`} group={group} among={among} />)}</tbody>
      </table>
      {value.more_groups > 0 && <p class="muted">{count(value.more_groups)} more groups change less.</p>}
    </section>
  );
}

function GroupLine({ group, among }: { group: GroupChange; among: string }) {
  const where = group.where.reduce(also, among);
  return (
    <tr>
      <th scope="row"><button type="button" class="link" onClick={() => go({ where, sort: "", group: "", open: "" })}>{group.class_name}{group.value !== null && ` · ${group.value}`}</button>
        <small>{images(group.images)}</small></th>
      <td class="change"><Scale around={group.accuracy} /></td>
      <td class="number"><span class="muted">{percent(group.accuracy.before)} →</span> <strong>{percent(group.accuracy.after)}</strong></td>
    </tr>
  );
}

function Scale({ around }: { around: Around }) {
  const at = (value: number | null) => `${100 * (value ?? 0)}%`;
  return (
    <div class="line" aria-hidden="true">
      {around.low !== null && around.high !== null && <span class="band" style={{ left: at(around.low), width: `${Math.max(1, 100 * (around.high - around.low))}%` }} />}
      {around.before !== null && <span class="before" style={{ left: at(around.before) }} />}
      {around.after !== null && <span class="after" style={{ left: at(around.after) }} />}
    </div>
  );
}

function Measured({ value, state, among, options }: { value: WhatIfAnswer | null; state: State; among: string; options: WhatIfOptions }) {
  return (
    <p class="muted">
      Measured on {value ? images(value.images) : "images"}{among ? <>: <code>{among}</code></> : ""}.
      {value?.sampled && ` A random sample: the logits of ${options.classes} classes and all heads fit for ${count(options.most_images)} images into ${options.megabytes} MB.`}
      {value && value.unlabelled > 0 && ` ${images(value.unlabelled)} without a label left out.`}
      {state.where.trim() && state.where !== among && <> <button type="button" class="link" onClick={() => go({ among: state.where })}>Use the filter above</button></>}
      {among && <> <button type="button" class="link" onClick={() => go({ among: "*" })}>Use all images</button></>}
    </p>
  );
}

function Keep({ state, run, value, among }: { state: State; run: RunFacts | null; value: WhatIfAnswer; among: string }) {
  const arms = useAnswer<Arm[]>("/what-if/arms");
  const [name, setName] = useState("");
  const send = async (event: Event) => {
    event.preventDefault();
    try {
      const arm = { name: name.trim().replace(/[^\w-]+/g, "-"), out: state.out, along: state.along || null, by: value.by, where: among ? [among] : [] };
      const { file } = await post<{ file: string }>("/what-if/arms", arm);
      setName("");
      revision.set(revision.value + 1);
      toast.set({ text: `Kept in ${file}. Its command gives the same figures.` });
    } catch (problem) {
      toast.set({ text: (problem as Error).message });
    }
  };
  return (
    <section>
      <h3>Keep as an arm</h3>
      {run?.write && hasToken() ? (
        <form class="inline-form" onSubmit={send}>
          <label class="stacked">Name <input value={name} maxLength={60} placeholder="without-water" disabled={!state.out.length} onInput={(event) => setName(event.currentTarget.value)} /></label>
          <button type="submit" disabled={!name.trim() || !state.out.length}>Keep</button>
        </form>
      ) : <p class="muted">To keep arms in the run, start the page with --write. The same elsewhere:</p>}
      {state.out.length > 0 && <Copyable text={value.code.command} name="command" />}
      {value.code.note && <p class="muted">{value.code.note}</p>}
      {(arms.value ?? []).map((arm) => (
        <button type="button" class="value arm" key={arm.name} title={arm.command} onClick={() => go({ out: arm.out, along: arm.along ?? "", by: arm.by ?? "", among: arm.where.join(" and ") || "*" })}>
          <span class="name">{arm.name}</span>
          <span class="number">{arm.worst[0] !== null ? <>worst {percent(arm.worst[0])} → {percent(arm.worst[1])}</> : <>{percent(arm.accuracy[0], 1)} → {percent(arm.accuracy[1], 1)}</>}</span>
        </button>
      ))}
    </section>
  );
}
