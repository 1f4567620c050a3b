// The rows: a table that loads what is looked at, and finds what is asked for.
import { elementScroll, observeElementOffset, observeElementRect, Virtualizer } from "@tanstack/virtual-core";
import type { TargetedKeyboardEvent, TargetedPointerEvent } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Cells, type Column, type Dataset, get, type Parameters, type Rows, url } from "./api";
import { RowDrawer } from "./drawer";
import { count, figure } from "./format";
import { Failure, FATES, MEANING, useLater } from "./parts";

const ROW = 36;
const PAGE = 100;
// Browsers lay out no more than some million pixels; a larger dataset is scrolled through in stretches.
const STRETCH = 400_000;
const WIDTHS: Record<Column["kind"], number> = { number: 110, flag: 80, time: 190, vector: 130, list: 300, chat: 340, text: 320, other: 240 };

/** A page of rows, or the wait for it. */
type Page = Rows["rows"] | Promise<void>;

export function RowsView({ dataset }: { dataset: Dataset }) {
  const [statuses, setStatuses] = useState<string[]>([]);
  const [typed, setTyped] = useState("");
  const [sort, setSort] = useState<{ by: string; descending: boolean } | null>(null);
  const [chosen, setChosen] = useState<string[]>(() => defaults(dataset.columns));
  const [widths, setWidths] = useState<Record<string, number>>({});
  const [open, setOpen] = useState<{ index: number; position: number } | null>(null);
  const text = useLater(typed.trim(), 300);
  const query: Parameters = { status: statuses, text, sort: sort?.by, descending: sort?.descending || undefined };
  const columns = dataset.columns.filter((column) => chosen.includes(column.name));
  const table = useRows(query, chosen);
  const [stretch, setStretch] = useState(0);
  const key = JSON.stringify(query);
  useEffect(() => {
    setStretch(0);
    setOpen(null);
  }, [key]);
  const total = table.total ?? (table.error ? 0 : dataset.rows);
  const [seek, setSeek] = useState<{ index: number; turn: number }>({ index: 0, turn: 0 });
  const [missed, setMissed] = useState("");

  const jump = async (ordinal: number) => {
    const { index } = await get<{ index: number | null }>("locate", { ...query, ordinal });
    setMissed(index === null ? `Row ${ordinal} is not among these.` : "");
    if (index === null) return;
    setStretch(Math.floor(index / STRETCH));
    setSeek({ index: index % STRETCH, turn: seek.turn + 1 });
  };
  const show = async (index: number) => {
    const found = await table.at(index);
    if (found) setOpen({ index, position: found.position });
  };
  const samples = Number(dataset.task["num_generations"] ?? 1) > 1;

  return (
    <div class="rows">
      <div class="toolbar">
        <div class="filters" role="group" aria-label="Filter by status">
          {FATES.map((fate) => (
            <button
              key={fate}
              type="button"
              class="filter"
              data-fate={fate}
              title={MEANING[fate]}
              aria-pressed={statuses.includes(fate)}
              disabled={dataset[fate] === 0}
              onClick={() => setStatuses(statuses.includes(fate) ? statuses.filter((each) => each !== fate) : [...statuses, fate])}
            >
              <span class="dot" aria-hidden="true" />
              {fate} <span class="quiet">{count(dataset[fate])}</span>
            </button>
          ))}
        </div>
        <input type="search" class="input search" placeholder="Search in texts" aria-label="Search in texts" value={typed} onInput={(event) => setTyped(event.currentTarget.value)} />
        <Jump jump={jump} />
        <span class="grow" />
        <ColumnMenu columns={dataset.columns} chosen={chosen} choose={setChosen} />
        <Download query={query} filtered={Boolean(statuses.length || text)} />
      </div>
      <p class="found" role="status">
        {table.error ? "" : table.total === null ? "Looking …" : `${count(total)} ${total === 1 ? "row" : "rows"}${statuses.length || text ? ` of ${count(dataset.rows)}` : ""}`}
        {!table.complete && " – the search took too long and looked at the first rows only"}
        {missed && ` – ${missed}`}
        {total > STRETCH && (
          <Stretches total={total} stretch={stretch} choose={setStretch} />
        )}
      </p>
      {table.error ? (
        <Failure error={table.error} />
      ) : table.total === 0 ? (
        <div class="nothing">
          <p>No row is like that.</p>
          <button
            type="button"
            class="button"
            onClick={() => {
              setStatuses([]);
              setTyped("");
            }}
          >
            Show all rows
          </button>
        </div>
      ) : (
        <div class="split">
          <Grid
            key={`${key}-${stretch}`}
            columns={columns}
            widths={widths}
            setWidths={setWidths}
            total={Math.min(STRETCH, total - stretch * STRETCH)}
            first={stretch * STRETCH}
            seek={seek}
            table={table}
            sort={sort}
            setSort={setSort}
            samples={samples}
            open={open}
            show={show}
          />
          {open && (
            <RowDrawer
              dataset={dataset}
              position={open.position}
              close={() => setOpen(null)}
              before={open.index > 0 ? () => void show(open.index - 1) : undefined}
              after={open.index + 1 < total ? () => void show(open.index + 1) : undefined}
            />
          )}
        </div>
      )}
    </div>
  );
}

function defaults(columns: Column[]): string[] {
  const own = columns.filter((column) => column.role === "output" && column.name !== "model_name");
  const inputs = columns.filter((column) => column.role === "input" && column.name !== "model_name");
  return [...inputs.slice(0, 3), ...own].map((column) => column.name);
}

interface Table {
  total: number | null;
  complete: boolean;
  error: unknown;
  cached: (index: number) => Rows["rows"][number] | undefined;
  want: (first: number, last: number) => void;
  at: (index: number) => Promise<Rows["rows"][number] | undefined>;
}

/** Pages of the rows of a query, loaded when they are wanted and kept while the query is the same. */
function useRows(query: Parameters, columns: string[]): Table {
  const key = JSON.stringify([query, columns]);
  const [, redraw] = useState(0);
  const store = useRef<{ key: string; pages: Map<number, Page>; total: number | null; complete: boolean; error: unknown; stop: AbortController } | null>(null);
  if (store.current?.key !== key) {
    store.current?.stop.abort();
    store.current = { key, pages: new Map(), total: null, complete: true, error: null, stop: new AbortController() };
  }
  const mine = store.current;
  const fetchPage = async (number: number) => {
    try {
      const page = await get<Rows>("rows", { ...query, column: columns, offset: number * PAGE, limit: PAGE }, mine.stop.signal);
      mine.pages.set(number, page.rows);
      mine.total = page.total;
      mine.complete = page.complete;
    } catch (error) {
      if (mine.stop.signal.aborted) return;
      mine.pages.delete(number);
      mine.error = error;
    }
    redraw((turn) => turn + 1);
  };
  const load = async (number: number) => {
    const known = mine.pages.get(number);
    if (Array.isArray(known)) return;
    const wait = known ?? fetchPage(number);
    if (!known) mine.pages.set(number, wait);
    await wait;
  };
  useEffect(() => {
    void load(0);
  }, [key]);
  useEffect(() => () => store.current?.stop.abort(), []);
  const cached = (index: number) => {
    const page = mine.pages.get(Math.floor(index / PAGE));
    return Array.isArray(page) ? page[index % PAGE] : undefined;
  };
  return {
    total: mine.total,
    complete: mine.complete,
    error: mine.error,
    cached,
    want: (first, last) => {
      for (let number = Math.floor(first / PAGE); number <= Math.floor(last / PAGE); number++) void load(number);
    },
    at: async (index) => {
      await load(Math.floor(index / PAGE));
      return cached(index);
    },
  };
}

interface GridProps {
  columns: Column[];
  widths: Record<string, number>;
  setWidths: (widths: Record<string, number>) => void;
  total: number;
  first: number;
  seek: { index: number; turn: number };
  table: Table;
  sort: { by: string; descending: boolean } | null;
  setSort: (sort: { by: string; descending: boolean } | null) => void;
  samples: boolean;
  open: { index: number } | null;
  show: (index: number) => Promise<void>;
}

function Grid({ columns, widths, setWidths, total, first, seek, table, sort, setSort, samples, open, show }: GridProps) {
  const scroller = useRef<HTMLDivElement>(null);
  const [, redraw] = useState(0);
  const [active, setActive] = useState(0);
  const virtual = useMemo(
    () =>
      new Virtualizer<HTMLDivElement, HTMLDivElement>({
        count: total,
        getScrollElement: () => scroller.current,
        estimateSize: () => ROW,
        overscan: 12,
        scrollPaddingStart: ROW,
        observeElementRect,
        observeElementOffset,
        scrollToFn: elementScroll,
        onChange: () => redraw((turn) => turn + 1),
      }),
    [],
  );
  virtual.setOptions({ ...virtual.options, count: total });
  useLayoutEffect(() => virtual._didMount(), []);
  useLayoutEffect(() => virtual._willUpdate());
  useEffect(() => {
    if (!seek.turn) return;
    setActive(seek.index);
    virtual.scrollToIndex(seek.index, { align: "center" });
  }, [seek.turn]);
  const items = virtual.getVirtualItems();
  const [top, bottom] = [items[0]?.index ?? 0, items[items.length - 1]?.index ?? 0];
  useEffect(() => table.want(first + top, first + bottom), [first, top, bottom, table.want]);

  const widthOf = (column: Column) => widths[column.name] ?? WIDTHS[column.kind];
  const lead = samples ? 96 : 72;
  const template = `${lead}px 96px ${columns.map((column) => `minmax(${widthOf(column)}px, ${column.kind === "number" || widths[column.name] ? `${widthOf(column)}px` : "1fr"})`).join(" ")}`;
  const least = lead + 96 + columns.reduce((sum, column) => sum + widthOf(column), 0);

  const keys = (event: TargetedKeyboardEvent<HTMLDivElement>) => {
    const steps: Record<string, number> = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -total, End: total };
    const step = steps[event.key];
    if (event.key === "Enter") {
      event.preventDefault();
      void show(first + active);
    } else if (step) {
      event.preventDefault();
      const next = Math.max(0, Math.min(total - 1, active + step));
      setActive(next);
      virtual.scrollToIndex(next);
    }
  };

  return (
    <div
      ref={scroller}
      class="grid"
      role="grid"
      aria-label="Rows"
      aria-rowcount={total + 1}
      aria-colcount={columns.length + 2}
      aria-activedescendant={items.some((item) => item.index === active) ? `row-${active}` : undefined}
      tabIndex={0}
      onKeyDown={keys}
    >
      <div class="headrow" role="row" aria-rowindex={1} style={{ gridTemplateColumns: template, minWidth: `${least}px` }}>
        <Heading name="row" column="distil_row" sort={sort} setSort={setSort} />
        <div role="columnheader" class="cell">
          status
        </div>
        {columns.map((column) => (
          <Heading
            key={column.name}
            name={column.name}
            hint={column.type}
            column={column.kind === "number" ? column.name : null}
            number={column.kind === "number"}
            sort={sort}
            setSort={setSort}
            resize={(width) => setWidths({ ...widths, [column.name]: width })}
            width={widthOf(column)}
          />
        ))}
      </div>
      <div class="body" role="rowgroup" style={{ height: `${virtual.getTotalSize()}px`, minWidth: `${least}px` }}>
        {items.map((item) => {
          const row = table.cached(first + item.index);
          return (
            <div
              key={item.key}
              id={`row-${item.index}`}
              class="row"
              role="row"
              aria-rowindex={first + item.index + 2}
              aria-selected={open?.index === first + item.index}
              data-active={item.index === active || undefined}
              style={{ transform: `translateY(${item.start}px)`, gridTemplateColumns: template }}
              onClick={() => {
                setActive(item.index);
                void show(first + item.index);
              }}
            >
              {row ? <CellsOf cells={row.cells} columns={columns} samples={samples} /> : <div role="gridcell" class="cell ghost" aria-label="loading" />}
            </div>
          );
        })}
      </div>
    </div>
  );
}

function CellsOf({ cells, columns, samples }: { cells: Cells; columns: Column[]; samples: boolean }) {
  const status = String(cells["distil_status"] ?? "ok");
  const sample = cells["distil_sample"];
  return (
    <>
      <div role="gridcell" class="cell number quiet">
        {cells["distil_row"] ?? ""}
        {samples && sample !== null && sample !== undefined ? `.${sample}` : ""}
      </div>
      <div role="gridcell" class="cell">
        <span class="fate" data-fate={status}>
          {status}
        </span>
      </div>
      {columns.map((column) => {
        const value = cells[column.name];
        const isNumber = typeof value === "number";
        return (
          <div key={column.name} role="gridcell" class={`cell ${isNumber ? "number" : "foreign"}`} dir={isNumber ? undefined : "auto"}>
            {value === null || value === undefined ? <span class="null">null</span> : isNumber ? figureOf(value) : String(value)}
          </div>
        );
      })}
    </>
  );
}

function figureOf(value: number): string {
  return Number.isInteger(value) ? String(value) : figure(value);
}

interface HeadingProps {
  name: string;
  hint?: string;
  column: string | null;
  number?: boolean;
  sort: { by: string; descending: boolean } | null;
  setSort: (sort: { by: string; descending: boolean } | null) => void;
  resize?: (width: number) => void;
  width?: number;
}

function Heading({ name, hint, column, number = false, sort, setSort, resize, width }: HeadingProps) {
  const mine = column !== null && sort?.by === column ? sort : null;
  const next = !mine ? { by: column ?? "", descending: number } : mine.descending === number ? { by: mine.by, descending: !number } : null;
  const drag = (event: TargetedPointerEvent<HTMLSpanElement>) => {
    event.preventDefault();
    const handle = event.currentTarget;
    const from = event.clientX;
    const begin = handle.parentElement?.offsetWidth ?? width ?? 200;
    handle.setPointerCapture(event.pointerId);
    handle.onpointermove = (move) => resize?.(Math.max(60, begin + move.clientX - from));
    handle.onpointerup = () => {
      handle.onpointermove = null;
    };
  };
  return (
    <div role="columnheader" class={`cell ${number ? "number" : ""}`} title={hint} aria-sort={mine ? (mine.descending ? "descending" : "ascending") : undefined}>
      {column ? (
        <button type="button" tabIndex={-1} class="sort" onClick={() => setSort(next)}>
          {name}
          <span aria-hidden="true">{mine ? (mine.descending ? " ↓" : " ↑") : ""}</span>
        </button>
      ) : (
        name
      )}
      {resize && <span class="resize" aria-hidden="true" onPointerDown={drag} />}
    </div>
  );
}

function Jump({ jump }: { jump: (ordinal: number) => Promise<void> }) {
  const [value, setValue] = useState("");
  const submit = (event: Event) => {
    event.preventDefault();
    const ordinal = Number.parseInt(value, 10);
    if (ordinal >= 0) void jump(ordinal);
  };
  return (
    <form onSubmit={submit}>
      <input class="input jump" inputMode="numeric" pattern="[0-9]*" placeholder="Go to row" aria-label="Go to row" value={value} onInput={(event) => setValue(event.currentTarget.value)} />
    </form>
  );
}

function Stretches({ total, stretch, choose }: { total: number; stretch: number; choose: (stretch: number) => void }) {
  const last = Math.ceil(total / STRETCH) - 1;
  return (
    <span class="stretches">
      <button type="button" class="button small" disabled={stretch === 0} onClick={() => choose(stretch - 1)}>
        ‹
      </button>
      {count(stretch * STRETCH)} to {count(Math.min(total, (stretch + 1) * STRETCH) - 1)}
      <button type="button" class="button small" disabled={stretch === last} onClick={() => choose(stretch + 1)}>
        ›
      </button>
    </span>
  );
}

function ColumnMenu({ columns, chosen, choose }: { columns: Column[]; chosen: string[]; choose: (names: string[]) => void }) {
  return (
    <details class="menu">
      <summary class="button">Columns</summary>
      <fieldset class="sheet">
        <legend>Columns of the table</legend>
        {columns
          .filter((column) => !["distil_row", "distil_sample", "distil_status"].includes(column.name))
          .map((column) => (
            <label key={column.name}>
              <input
                type="checkbox"
                checked={chosen.includes(column.name)}
                onChange={(event) => choose(event.currentTarget.checked ? [...chosen, column.name] : chosen.filter((name) => name !== column.name))}
              />
              {column.name} <span class="quiet">{column.type.length > 40 ? `${column.type.slice(0, 40)}…` : column.type}</span>
            </label>
          ))}
      </fieldset>
    </details>
  );
}

function Download({ query, filtered }: { query: Parameters; filtered: boolean }) {
  return (
    <details class="menu">
      <summary class="button">Download</summary>
      <div class="sheet">
        {filtered && <p class="quiet">The rows that are shown:</p>}
        <a href={url("download", { ...query, form: "parquet" })} download>
          Parquet
        </a>
        <a href={url("download", { ...query, form: "jsonl" })} download>
          JSONL
        </a>
        {filtered && (
          <>
            <p class="quiet">All rows:</p>
            <a href={url("download", { form: "parquet" })} download>
              Parquet
            </a>
            <a href={url("download", { form: "jsonl" })} download>
              JSONL
            </a>
          </>
        )}
      </div>
    </details>
  );
}
