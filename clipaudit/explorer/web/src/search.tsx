// A question in parts: texts, images and samples that add up, by the whole embedding or by chosen heads.
import { useState } from "preact/hooks";
import { toast, upload, useAnswer } from "./api";
import { BesideChoice } from "./beside";
import { go, type State } from "./state";
import type { HeadsAnswer } from "./types";

type Kind = "text" | "minus" | "key" | "image";
const SIGN: Record<Kind, string> = { text: "+", minus: "−", key: "+", image: "+" };
const ABOUT: Record<Kind, string> = { text: "like the text", minus: "unlike the text", key: "like the image", image: "like the picture" };

const split = (value: string): [string, string] => {
  const match = /^(.*\S)\s*=\s*([+-]?[\d.]+)$/.exec(value);
  return match ? [match[1]!, match[2]!] : [value, "1"];
};
const joined = (what: string, weight: string) => (weight === "1" || weight === "" ? what : `${what}=${weight}`);

export function Search({ state }: { state: State }) {
  const heads = useAnswer<HeadsAnswer>("/heads");
  const [draft, setDraft] = useState("");
  const [over, setOver] = useState(false);
  const parts = (["text", "key", "image", "minus"] as Kind[]).flatMap((kind) => state[kind].map((value, place) => ({ kind, value, place })));
  const set = (kind: Kind, place: number, value: string | null) => {
    const list = [...state[kind]];
    if (value === null) list.splice(place, 1);
    else list[place] = value;
    const change = { [kind]: list } as Partial<State>;
    const left = parts.length - Number(value === null);
    go(left ? change : { ...change, head: [], beside: [], sort: state.sort.replace(/^-?score$/, "") });
  };
  const add = (kind: Kind, value: string) => {
    if (!value.trim() || state[kind].includes(value.trim())) return;
    go({ [kind]: [...state[kind], value.trim()], sort: "", open: "" } as Partial<State>);
    setDraft("");
  };
  const drop = async (files: FileList | undefined | null) => {
    const file = files?.[0];
    if (!file) return;
    try {
      go({ image: [...state.image, await upload(file)], sort: "", open: "" });
    } catch (error) {
      toast.set({ text: (error as Error).message });
    }
  };
  const roles = [...new Set((heads.value?.heads ?? []).map((each) => each.role).filter((role): role is string => !!role))].sort();
  const by = state.head.map((each) => split(each)[0]);
  return (
    <>
      <header class="panel-head">
        <h2>Search</h2>
        <p class="muted">Texts and images add up; what is subtracted is avoided. By one head, images are alike in that head's respect only.</p>
      </header>
      <form class="ask" onSubmit={(event) => { event.preventDefault(); add("text", draft); }}>
        <label class="stacked">Text <input id="ask" value={draft} maxLength={300} placeholder="a photo of water" onInput={(event) => setDraft(event.currentTarget.value)}
          onPaste={(event) => { if (event.clipboardData?.files.length) { event.preventDefault(); void drop(event.clipboardData.files); } }} /></label>
        <div class="buttons">
          <button type="submit" class="primary" disabled={!draft.trim()}>Find</button>
          <button type="button" disabled={!draft.trim()} onClick={() => add("minus", draft)}>Subtract</button>
        </div>
      </form>
      <div class={over ? "drop over" : "drop"} onDragOver={(event) => { event.preventDefault(); setOver(true); }} onDragLeave={() => setOver(false)}
        onDrop={(event) => { event.preventDefault(); setOver(false); void drop(event.dataTransfer?.files); }}>
        <label>Drop or paste a picture, or <span class="link">choose a file</span>
          <input type="file" accept="image/*" class="visually-hidden" onChange={(event) => drop(event.currentTarget.files)} /></label>
      </div>
      {parts.length > 0 && (
        <ul class="parts" aria-label="The question">
          {parts.map(({ kind, value, place }) => {
            const [what, weight] = kind === "image" ? [value, "1"] : split(value);
            return (
              <li key={`${kind}${value}`}>
                <span class={`sign ${kind}`} aria-hidden="true">{SIGN[kind]}</span>
                <span class="what"><span class="muted">{ABOUT[kind]}</span> {kind === "image" ? "that you gave" : what}</span>
                {kind !== "image" && <input type="number" step="0.5" value={weight} aria-label={`Weight of ${what}`} onChange={(event) => set(kind, place, joined(what, event.currentTarget.value))} />}
                <button type="button" class="quiet" aria-label={`Remove ${what}`} onClick={() => set(kind, place, null)}>×</button>
              </li>
            );
          })}
        </ul>
      )}
      <fieldset disabled={parts.length === 0}>
        <legend>By</legend>
        <label class="choice"><input type="radio" name="by" checked={by.length === 0} onChange={() => go({ head: [] })} /> the whole embedding</label>
        {roles.map((role) => {
          const of = heads.value!.heads.filter((each) => each.role === role).map((each) => each.head);
          return (
            <label class="choice" key={role}><input type="radio" name="by" checked={by.length > 0 && of.length === by.length && of.every((head) => by.includes(head))}
              onChange={() => go({ head: of })} /> {role} <span class="muted">{of.length} {of.length === 1 ? "head" : "heads"}</span></label>
          );
        })}
        <details open={by.length > 0}>
          <summary>Chosen heads {by.length > 0 && <span class="muted">{by.join(", ")}</span>}</summary>
          <div class="head-grid">
            {(heads.value?.heads ?? []).map((each) => (
              <label key={each.head} title={each.texts.slice(0, 3).map((text) => text.text).join("; ")}>
                <input type="checkbox" checked={by.includes(each.head)} onChange={() => go({ head: by.includes(each.head) ? state.head.filter((head) => split(head)[0] !== each.head) : [...state.head, each.head] })} />
                {each.head}
              </label>
            ))}
          </div>
        </details>
      </fieldset>
      {parts.length > 0 && <BesideChoice state={state} none="The same question beside it, by" />}
      {parts.length === 0 && <p class="muted">Or press <kbd>m</kbd> on an image of the wall for more like it.</p>}
    </>
  );
}
