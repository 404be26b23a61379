// What the interface answers (clipaudit/explorer/*_routes.py).

export interface RunFacts {
  name: string;
  pictures: string;
  tags_column: string;
  commands: { restart: string; write: string; columns: string };
  model: string;
  rows: number;
  skipped: Record<string, number>;
  heads: string[];
  labels: boolean;
  write: boolean;
  pictures_missing: string | null;
}

export interface ColumnValue { value: string; count: number; name: string | null }

export interface ColumnFacts {
  name: string;
  short: string;
  kind: "whole" | "number" | "boolean" | "text";
  distinct: number;
  missing: number;
  values: ColumnValue[];
  low: string | null;
  high: string | null;
  page_only: boolean;
}

export interface Row {
  shard: number;
  index: number;
  key: string;
  label: string | null;
  labels: string[];
  class_name: string | null;
  caption: string | null;
  width: number | null;
  height: number | null;
  score: number | null;
  /** Whether each of the report's answers is right, by column. */
  right: Record<string, boolean | null>;
  tags: string[];
  value: string | null;
}

export interface Group { value: string | null; name: string | null; start: number; count: number }
export interface AsCode { command: string; python: string; note: string | null }

export interface RowsAnswer {
  total: number;
  matched: number;
  rows: Row[];
  groups?: Group[];
  code?: AsCode;
  why_empty?: string | null;
}

export interface Estimate { value: number | null; low: number | null; high: number | null; n: number }

export interface Cell {
  class_name: string;
  value: string;
  count: number;
  accuracy: Estimate | null;
  without: Estimate | null;
  where: string[];
}

export interface Answerer {
  name: string;
  verdict: string | null;
  state: string;
  gap: Estimate | null;
  gap_after: Estimate | null;
  net: Estimate | null;
}

export interface Finding {
  id: string;
  verdict: string;
  slug: string;
  meaning: string;
  sentence: string;
  action: string;
  class_name: string | null;
  cue: string;
  words: string[];
  no_good_word: boolean;
  heads: string[];
  attribute: string | null;
  value: string | null;
  score_column: string;
  /** Column that says whether CLIP is right with the cue taken out. */
  without: string;
  association: Estimate | null;
  answerers: Answerer[];
  cells: { attribute: string; values: string[]; measured_on: string | null; rows: Cell[][] } | null;
  evidence: string[];
  false_alarm: string[];
  needs: string[];
  class_filter: string | null;
  /** What images with the cue may be called; null where nothing can be labelled. */
  label_word: string | null;
  labelled: StudyLine | null;
}

export interface FindingsAnswer {
  missing?: string;
  command?: string;
  report?: {
    gate: { outcome: string; sentence: string };
    accuracy: Estimate | null;
    rows: number;
    problems: string[];
  };
  findings?: Finding[];
  /** Column that says whether an answer is right -> whose it is. */
  answers?: Record<string, string>;
  /** Cues that were labelled and are no finding of this report. */
  labelled?: StudyLine[];
}

export interface HeadFacts {
  head: string;
  layer: number;
  share: number;
  role: string | null;
  texts: { text: string; explained: number }[];
}

export interface HeadsAnswer { heads: HeadFacts[]; source: string | null; missing: string | null; command: string; python: string }
export interface Strip { text: string; top: Row[]; bottom: Row[] }

/** A share before and after, and between which random sets of heads leave it. */
export interface Around { before: number | null; after: number | null; low: number | null; high: number | null }

export interface WhatIfOptions {
  missing: string | null;
  command?: string;
  columns: { name: string; short: string }[];
  findings: { id: string; name: string; class_name: string | null; heads: string[]; attribute: string | null; text: string | null; among: string | null }[];
  classes: number;
  megabytes: number;
  most_images: number;
  sets: number;
}

export interface GroupChange { class_name: string; value: string | null; images: number; accuracy: Around; aligned: boolean | null; where: string[] }

export interface WhatIfAnswer {
  images: number;
  sampled: boolean;
  unlabelled: number;
  sets: number;
  accuracy: Around;
  worst: Around | null;
  worst_name: string[] | null;
  groups: GroupChange[];
  more_groups: number;
  gap: { gap: Around; net: number | null; net_low: number | null; net_high: number | null; p: number | null; classes: string[] } | null;
  by: string | null;
  code: AsCode;
}

export interface Arm { name: string; out: string[]; along: string | null; by: string | null; where: string[]; command: string; accuracy: number[]; worst: (number | null)[] }

export interface RankedRow extends Row { ranks: number[] }
export interface BesideAnswer { first: RankedRow[]; second: RankedRow[]; first_alone: RankedRow[]; second_alone: RankedRow[]; matched: number; correlation: number | null; codes: AsCode[] }

/** One thing in which the images of a region differ from the others. */
export interface Difference { kind: "text" | "value" | "number"; name: string; value: string | null; inside: number; others: number; effect: number; q: number }
export interface ApartAnswer { inside: number; others: number; tested: number; space: string; differences: Difference[]; no_texts: string | null; command: string | null }

export interface RowDetail extends Omit<Row, "tags" | "right"> {
  columns: Record<string, string | null>;
  tags: { tag: string; author: string; reason: string; time: string }[];
}

export interface Parts { of: string; score: number; parts: { name: string; value: number; words: string[] }[] }
export interface ClassFacts { label: string; name: string }

export interface TagFacts {
  /** Why the report's weights cannot be downloaded. */
  weights_missing: string | null;
  version: number;
  file: string | null;
  write: boolean;
  counts: Record<string, number>;
  images: number;
  damaged: number;
  foreign: number;
  events: { id: string; time: string; author: string; tag: string; reason: string; removes: boolean; images: number }[];
}

export interface SideShare { class_name: string; has: boolean; share: Estimate | null; scored: number[] }

export interface LabelVerdict {
  labels: number;
  outcome: "confirmed" | "dismissed" | "not decided";
  verdict: string;
  sentence: string;
  more: number | null;
  found: string;
}

export interface Study { id: string; finding: string; cue: string; word: string; column: string; delta: number; images: number }
export interface StudyLine extends Study { answered: number; verdict: LabelVerdict | null }

export interface LabelView {
  study: Study;
  answered: number;
  unsure: number;
  repeats: number;
  disagreements: number;
  error: Estimate | null;
  sides: SideShare[];
  d: Estimate | null;
  more: number | null;
  latest: { id: string; answer: string; shard: number; index: number } | null;
  next: { shard: number; index: number }[];
  verdict: LabelVerdict | null;
  audit: { running: boolean; seconds: number; failure: string | null; command: string } | null;
}

export interface ErrorSlice {
  id: string;
  class_name: string;
  description: string;
  wrong: Estimate;
  others: Estimate;
  share_of_errors: number;
  images: number;
  same: string[];
  no_good_word: boolean;
  taken_for: { class_name: string; images: number }[];
  where: string | null;
  where_wrong: string | null;
  class_filter: string;
}

export interface MistakesAnswer {
  missing?: string;
  command?: string;
  answerers?: { name: string; images: number; wrong: number; slices: ErrorSlice[] }[];
  labels?: { sentence: string; listed: number; pairs: { label: string; looks_like: string; images: number }[]; where: string | null; sort: string } | null;
}

/** What each patch of an image adds to its cosine with a text, through a head or `embedding`, all heads together. */
export interface HeatMap { head: string; text: string; adds: number; patches_add: number; scores: number[][] }

export interface HeatAnswer {
  image: string;
  texts: { text: string; cosine: number; seen: boolean }[];
  heads: string[];
  maps: HeatMap[];
  grid: [number, number];
  /** Where the model's input lies in the picture, in its pixels; `kept` says how much of it, where it is not all. */
  frame: { size: [number, number]; top: number; left: number; bottom: number; right: number; kept: string };
  /** The ends of the one scale of all maps; zero lies between. */
  scale: { low: number; high: number };
  colours: string[];
  unrelated_cosine: number | null;
  register_like: [number, number][];
}

export interface NearRow extends Row { cosine: number; bits: number; other_label: boolean }
export interface NearAnswer { image: string; total: number; images: NearRow[]; rule: string; command: string }
