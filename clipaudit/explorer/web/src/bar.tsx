// The one bar above the wall: filter, order, groups, size, what is chosen, and the same as code.
import { useEffect, useRef, useState } from "preact/hooks";
import { complete } from "./complete";
import { choose, clear, useSelection } from "./selection";
import { go, type State } from "./state";
import type { ColumnFacts, RunFacts } from "./types";
import { count, images } from "./words";
import type { Wall } from "./wall";

function Filter({ where, columns }: { where: string; columns: ColumnFacts[] }) {
  const [text, setText] = useState(where);
  const [open, setOpen] = useState(false);
  const [picked, pick] = useState(-1);
  const [caret, setCaret] = useState(0);
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => setText(where), [where]);
  const { from, list } = open ? complete(text.slice(0, caret), columns) : { from: 0, list: [] };
  const suggestions = list.slice(0, 50);

  const take = (insert: string) => {
    const next = text.slice(0, from) + insert + text.slice(caret).trimStart();
    setText(next);
    pick(-1);
    requestAnimationFrame(() => {
      const place = from + insert.length;
      input.current?.setSelectionRange(place, place);
      setCaret(place);
    });
  };
  const apply = (value: string) => {
    setOpen(false);
    pick(-1);
    go({ where: value.trim() });
  };
  const keys = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (!suggestions.length) return setOpen(true);
      event.preventDefault();
      // one place more than there are suggestions: none is picked
      const places = suggestions.length + 1;
      pick(((picked + 1 + (event.key === "ArrowDown" ? 1 : -1) + places) % places) - 1);
    } else if ((event.key === "Enter" || event.key === "Tab") && picked >= 0 && suggestions[picked]) {
      event.preventDefault();
      take(suggestions[picked]!.insert);
    } else if (event.key === "Enter") {
      event.preventDefault();
      apply(text);
    } else if (event.key === "Escape") {
      event.stopPropagation();
      if (open && suggestions.length) setOpen(false);
      else input.current?.blur();
    }
  };
  return (
    <div class="filter">
      <span class="filter-icon" aria-hidden="true">⌕</span>
      <input ref={input} id="filter" type="text" role="combobox" aria-label="Filter images" aria-expanded={suggestions.length > 0} aria-autocomplete="list"
        aria-controls="suggestions" aria-activedescendant={picked >= 0 ? `suggestion-${picked}` : undefined} autocomplete="off" spellcheck={false}
        placeholder="Filter: place = water and label = 1" value={text}
        onInput={(event) => { setText(event.currentTarget.value); setCaret(event.currentTarget.selectionStart ?? 0); setOpen(true); pick(-1); }}
        onFocus={(event) => { setCaret(event.currentTarget.selectionStart ?? text.length); setOpen(true); }}
        onSelect={(event) => setCaret(event.currentTarget.selectionStart ?? 0)}
        onBlur={() => { setOpen(false); if (text.trim() !== where.trim()) apply(text); }} onKeyDown={keys} />
      {text && <button type="button" class="quiet clear" aria-label="Clear the filter" onMouseDown={(event) => event.preventDefault()}
        onClick={() => { setText(""); apply(""); }}>×</button>}
      <ul id="suggestions" role="listbox" aria-label="Suggestions" hidden={!suggestions.length}>
        {suggestions.map((each, place) => (
          <li key={each.label} id={`suggestion-${place}`} role="option" aria-selected={place === picked}
            onMouseDown={(event) => { event.preventDefault(); take(each.insert); }}>
            <span>{each.label}</span><span class="about">{each.about}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}

interface BarProps { state: State; wall: Wall; columns: ColumnFacts[]; run: RunFacts | null; hasQuestion: boolean; onCode: () => void; onTag: () => void }

export function Bar({ state, wall, columns, run, hasQuestion, onCode, onTag }: BarProps) {
  const chosen = useSelection();
  const groupable = columns.filter((each) => each.distinct > 1 && (each.kind === "text" || each.kind === "boolean" || each.values.length > 0) && each.distinct < 1000 || each.page_only && each.kind !== "number" && each.name !== run?.tags_column);
  const descending = state.sort.startsWith("-") || (!state.sort && hasQuestion);
  // a tag for everything that a question ranks, or for the whole run, is never what is meant
  const tooMany = chosen.size === 0 && (hasQuestion || wall.loading || wall.matched === wall.total);
  const sort = state.sort.replace(/^-/, "");
  return (
    <div class="bar">
      <div class="first"><Filter where={state.where} columns={columns} /><button type="button" onClick={onCode}>As code</button></div>
      <div class="status">
        {state.inside && <span class="chosen">in a region of the <button type="button" class="link" onClick={() => go({ screen: "map", open: "" })}>map</button> <button type="button" class="quiet" aria-label="Forget the region" onClick={() => go({ inside: "" })}>×</button></span>}
        <span aria-live="polite"><strong>{wall.matched === wall.total ? images(wall.total) : count(wall.matched)}</strong>{wall.matched !== wall.total && ` of ${count(wall.total)}`}</span>
        {chosen.size > 0 && <span class="chosen"><strong>{count(chosen.size)} chosen</strong> <button type="button" class="link" onClick={clear}>none</button></span>}
        {chosen.size === 0 && wall.matched > 0 && <button type="button" class="link" onClick={() => {
          const rows = [];
          for (let place = 0; place < Math.min(200, wall.matched); place++) { const row = wall.row(place); if (row) rows.push(row); }
          choose(rows);
        }}>choose {wall.matched <= 200 ? "all" : "200"}</button>}
        <span class="space" />
      <div class="controls">
        <label>Sort <select value={sort || (hasQuestion ? "score" : "")} onChange={(event) => go({ sort: event.currentTarget.value && `${descending ? "-" : ""}${event.currentTarget.value}` })}>
          {!hasQuestion && <option value="">stored</option>}
          {hasQuestion && <option value="score">score</option>}
          {columns.map((each) => <option key={each.name} value={each.name}>{each.short}</option>)}
        </select></label>
        {(sort || hasQuestion) && (
          <button type="button" class="quiet" aria-label={descending ? "Highest first; turn round" : "Lowest first; turn round"}
            onClick={() => { const name = sort || "score"; go({ sort: descending ? name : `-${name}` }); }}>{descending ? "↓" : "↑"}</button>
        )}
        <label>Group <select value={state.group} onChange={(event) => go({ group: event.currentTarget.value })}>
          <option value="">none</option>
          {groupable.map((each) => <option key={each.name} value={each.name}>{each.short}</option>)}
        </select></label>
        <span class="sizes" role="group" aria-label="Size of the images">
          {(["s", "m", "l"] as const).map((name) => (
            <button key={name} type="button" class="quiet" aria-pressed={(state.size || "m") === name}
              aria-label={{ s: "Small images", m: "Middle-sized images", l: "Large images" }[name]}
              onClick={() => go({ size: name === "m" ? "" : name }, true)}>{name.toUpperCase()}</button>
          ))}
        </span>
      </div>
        <button type="button" class="primary" disabled={!run || wall.matched === 0 || tooMany}
          title={tooMany ? "Choose images, or filter them, to tag them" : undefined} onClick={onTag}>
          {chosen.size > 0 ? `Tag ${count(chosen.size)}` : tooMany ? "Tag" : `Tag all ${count(wall.matched)}`}
        </button>
      </div>
    </div>
  );
}
