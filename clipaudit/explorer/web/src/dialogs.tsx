// Small windows over the page: tags, the view as code, the keys.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { changed, hasToken, post, toast, useAnswer } from "./api";
import { undo } from "./basket";
import { clear } from "./selection";
import type { AsCode, RunFacts, TagFacts } from "./types";
import { Copyable, count, images, Missing } from "./words";

export function Dialog({ name, onClose, children }: { name: string; onClose: () => void; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const element = dialog.current!;
    const before = document.activeElement as HTMLElement | null;
    element.showModal();
    return () => { element.close(); before?.focus?.(); };
  }, []);
  return (
    <dialog ref={dialog} aria-label={name} onClose={onClose} onCancel={onClose} onClick={(event) => { if (event.target === dialog.current) onClose(); }}>
      <div class="dialog">
        <header><h2>{name}</h2><button type="button" class="quiet" aria-label="Close" onClick={onClose}>×</button></header>
        {children}
      </div>
    </dialog>
  );
}

export function CodeDialog({ code, onClose }: { code: AsCode | null; onClose: () => void }) {
  return (
    <Dialog name="The same as code" onClose={onClose}>
      {code ? (
        <>
          <h3>Command</h3><Copyable text={code.command} name="command" />
          <h3>Python</h3><Copyable text={code.python} name="Python code" />
          {code.note && <p class="muted">{code.note}</p>}
        </>
      ) : <p class="muted">There is no view yet.</p>}
    </Dialog>
  );
}

const KEYS: [string, string][] = [
  ["arrows", "move on the wall"], ["Enter", "open the image"], ["x", "choose or leave it"], ["t", "tag the chosen images"],
  ["m", "more like this image"], ["/", "filter"], ["Esc", "close, or choose none"], ["?", "this list"],
  ["j / f", "when labelling: yes / no"], ["u", "when labelling: cannot tell"], ["z", "when labelling: undo"],
];

export function KeysDialog({ onClose }: { onClose: () => void }) {
  return <Dialog name="Keys" onClose={onClose}><dl class="keys">{KEYS.map(([key, about]) => <div key={key}><dt><kbd>{key}</kbd></dt><dd>{about}</dd></div>)}</dl></Dialog>;
}

export type Target = { images: { shard: number; index: number }[] } | { where: string[]; inside: string | null; count: number };

export function TagDialog({ target, run, onClose }: { target: Target; run: RunFacts; onClose: () => void }) {
  const { value } = useAnswer<TagFacts>("/tags");
  const [tag, setTag] = useState("");
  const [reason, setReason] = useState("");
  const [author, setAuthor] = useState(localStorage.getItem("clipaudit-author") ?? "");
  const [error, setError] = useState("");
  const number = "images" in target ? target.images.length : target.count;
  const known = Object.keys(value?.counts ?? {});
  const name = tag.trim().replace(/\s+/g, "-");
  const send = async (event: Event, remove = false) => {
    event.preventDefault();
    localStorage.setItem("clipaudit-author", author);
    const which = "images" in target ? { images: target.images } : { where: target.where, inside: target.inside, count: target.count };
    try {
      const facts = await post<TagFacts>("/tags", { tag: name || known[0] || "review", reason, author, remove, ...which });
      changed(facts);
      const event = facts.events[0]?.id;
      clear();
      onClose();
      toast.set({ text: `${remove ? "Took" : "Gave"} ${name || known[0] || "review"} ${remove ? "from" : "to"} ${images(number)}.`, ...(event ? { undo: () => void undo(event) } : {}) });
    } catch (problem) {
      setError((problem as Error).message);
    }
  };
  if (!run.write || !hasToken()) {
    return (
      <Dialog name="Tags" onClose={onClose}>
        {run.write ? <Missing>This window may not write: open the address that <code>clipaudit explore</code> printed.</Missing>
          : <Missing command={run.commands.write}>The page only reads. To tag images, start it with --write:</Missing>}
      </Dialog>
    );
  }
  return (
    <Dialog name={`Tag ${images(number)}`} onClose={onClose}>
      <form class="tag-form" onSubmit={(event) => send(event)}>
        <label class="stacked">Tag <input list="tags" value={tag} maxLength={40} placeholder={known[0] ?? "review"} autofocus onInput={(event) => setTag(event.currentTarget.value)} /></label>
        <datalist id="tags">{[...new Set([...known, "wrong-label", "exclude", "review"])].map((each) => <option key={each} value={each} />)}</datalist>
        <label class="stacked">Why <input value={reason} maxLength={500} placeholder="optional" onInput={(event) => setReason(event.currentTarget.value)} /></label>
        <label class="stacked">Your name <input value={author} maxLength={80} placeholder="optional" onInput={(event) => setAuthor(event.currentTarget.value)} /></label>
        {error && <p class="problem" role="alert">{error}</p>}
        <div class="buttons">
          <button type="submit" class="primary">Tag {count(number)}</button>
          <button type="button" disabled={!known.includes(name)} onClick={(event) => send(event, true)}>Take it away</button>
        </div>
      </form>
    </Dialog>
  );
}
