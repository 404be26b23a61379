// Completion of the filter language (clipaudit/run/filters.py): columns, comparisons, values.
import { short } from "./words";
import { quoted } from "./state";
import type { ColumnFacts } from "./types";

export interface Suggestion { label: string; insert: string; about: string }

const SIGNS: [string, string][] = [["=", "is"], ["!=", "is not"], ["<", "less than"], ["<=", "at most"], [">", "more than"], [">=", "at least"]];

const named = (column: ColumnFacts) => (/^[A-Za-z_][\w.-]*$/.test(column.short) ? column.short : `\`${column.short}\``);

/** What may follow the text before the caret, and where what is being typed begins. */
export function complete(text: string, columns: ColumnFacts[]): { from: number; list: Suggestion[] } {
  // the last comparison: behind `and`, `or`, `not` or a bracket
  const begin = Math.max(...[...text.matchAll(/(?:^|\(|\b(?:and|or|not)\s)\s*/gi)].map((match) => match.index + match[0].length), 0);
  const piece = text.slice(begin);
  const value = /^(`[^`]+`|[\w.-]+)\s*(=|!=|<>|<=|>=|<|>|like\s|(?:not\s+)?in\s*\((?:[^()]*,)?)\s*('[^']*|"[^"]*|[^\s'"()]*)$/i.exec(piece);
  if (value) {
    const column = find(columns, value[1]!);
    const typed = value[3]!.replace(/^['"]/, "").toLowerCase();
    const from = begin + value[0].length - value[3]!.length;
    return { from, list: column ? values(column, typed) : [] };
  }
  const sign = /^(`[^`]+`|[\w.-]+)\s+([a-z!<>=]*)$/i.exec(piece);
  const column = sign && find(columns, sign[1]!);
  if (sign && column) {
    const signs = column.kind === "text" || column.kind === "boolean" ? SIGNS.slice(0, 2) : SIGNS;
    const more: [string, string][] = [...signs, ["in (", "one of several"], ["is null", "has no value"], ["is not null", "has a value"]];
    if (column.kind === "text") more.splice(2, 0, ["like '%", "contains a pattern"]);
    const list = more.filter(([word]) => word.startsWith(sign[2]!.toLowerCase()))
      .map(([word, about]) => ({ label: word, insert: /[(%l]$/.test(word) ? word : `${word} `, about }));
    return { from: begin + piece.length - sign[2]!.length, list };
  }
  if (/^`?[\w.-]*$/.test(piece)) {
    const typed = piece.replace("`", "").toLowerCase();
    const matches = columns.filter((each) => each.short.toLowerCase().includes(typed) || each.name.toLowerCase().startsWith(typed));
    matches.sort((a, b) => Number(!a.short.toLowerCase().startsWith(typed)) - Number(!b.short.toLowerCase().startsWith(typed)));
    return { from: begin, list: matches.map((each) => ({ label: each.short, insert: `${named(each)} `, about: about(each) })) };
  }
  if (/\s$/.test(text) && piece.trim()) {
    return { from: text.length, list: ["and", "or"].map((word) => ({ label: word, insert: `${word} `, about: "one more condition" })) };
  }
  return { from: text.length, list: [] };
}

function find(columns: ColumnFacts[], typed: string): ColumnFacts | undefined {
  const name = typed.replaceAll("`", "");
  return columns.find((each) => each.name === name || each.short === name);
}

function values(column: ColumnFacts, typed: string): Suggestion[] {
  return column.values
    .filter((each) => each.value.toLowerCase().includes(typed) || each.name?.toLowerCase().includes(typed))
    .map((each) => ({
      label: each.name ? `${each.value} (${each.name})` : each.value,
      insert: `${column.kind === "text" ? quoted(each.value) : each.value} `,
      about: each.count ? `${each.count.toLocaleString("en")}` : "",
    }));
}

function about(column: ColumnFacts): string {
  if (column.low !== null && column.distinct > 50) return `${short(column.low)} to ${short(column.high!)}`;
  if (column.values.length) return column.values.slice(0, 3).map((each) => each.name ?? each.value).join(", ") + (column.distinct > 3 ? ", …" : "");
  return column.kind === "whole" ? "number" : column.kind;
}
