// One row, whole: what went in, what came out, and each request behind it.
import { useEffect, useRef, useState } from "preact/hooks";
import { type Column, type Dataset, get, type Json } from "./api";
import { count, dollars, figure, seconds } from "./format";
import { Failure, useLoad, Waiting } from "./parts";

type Row = Record<string, Json>;

export function RowDrawer({ dataset, position, close, before, after }: { dataset: Dataset; position: number; close: () => void; before?: (() => void) | undefined; after?: (() => void) | undefined }) {
  const loaded = useLoad(`${dataset.fingerprint}-${dataset.edition}-${position}`, (signal) => get<{ row: Row }>("row", { position }, signal));
  const panel = useRef<HTMLElement>(null);
  const [shown, setShown] = useState<Row | null>(null);
  useEffect(() => {
    if (loaded.value) setShown(loaded.value.row);
  }, [loaded.value]);
  useEffect(() => panel.current?.focus(), []);
  const keys = (event: KeyboardEvent) => {
    if (event.key === "Escape") close();
  };
  const row = loaded.value?.row ?? shown;
  return (
    <aside ref={panel} class="drawer" tabIndex={-1} aria-label="Row" onKeyDown={keys}>
      <div class="drawerhead">
        <h2>
          Row {String(row?.["distil_row"] ?? position)}
          {row && Number(dataset.task["num_generations"] ?? 1) > 1 && typeof row["distil_sample"] === "number" && <span class="quiet"> sample {String(row["distil_sample"])}</span>}
        </h2>
        {row && <span class="fate" data-fate={String(row["distil_status"] ?? "ok")}>{String(row["distil_status"] ?? "ok")}</span>}
        <span class="grow" />
        {row && <Copy row={row} />}
        <button type="button" class="button small" aria-label="Row before" disabled={!before} onClick={before}>
          ↑
        </button>
        <button type="button" class="button small" aria-label="Row after" disabled={!after} onClick={after}>
          ↓
        </button>
        <button type="button" class="button small" aria-label="Close" onClick={close}>
          ✕
        </button>
      </div>
      <div class="drawerbody">
        {loaded.error ? <Failure error={loaded.error} retry={loaded.again} /> : row ? <Whole dataset={dataset} row={row} /> : <Waiting what="Reading the row …" />}
      </div>
    </aside>
  );
}

function Whole({ dataset, row }: { dataset: Dataset; row: Row }) {
  const of = (role: Column["role"]) => dataset.columns.filter((column) => column.role === role && column.name !== "distil_metadata");
  const error = row["distil_error"];
  const requests = Array.isArray(row["distil_metadata"]) ? (row["distil_metadata"] as Row[]) : [];
  return (
    <>
      {typeof error === "string" && (
        <section class="field" data-tone="failed">
          <h3>Why it is not ok</h3>
          <Text text={error} />
        </section>
      )}
      {of("output").map((column) => (
        <Field key={column.name} column={column} value={row[column.name] ?? null} />
      ))}
      {of("input").length > 0 && <h3 class="part">What it was made from</h3>}
      {of("input").map((column) => (
        <Field key={column.name} column={column} value={row[column.name] ?? null} />
      ))}
      <h3 class="part">Requests</h3>
      {requests.length === 0 && <p class="quiet">Nothing was asked about this row.</p>}
      {requests.map((each, index) => (
        <Request key={index} number={index + 1} request={each} />
      ))}
      <Raw dataset={dataset} requests={requests} />
    </>
  );
}

function Field({ column, value }: { column: Column; value: Json }) {
  return (
    <section class="field">
      <h4>
        {column.name} <span class="quiet">{column.kind === "other" || column.kind === "list" ? "" : column.kind}</span>
      </h4>
      <Value value={value} />
    </section>
  );
}

/** A value as text, list, conversation or JSON: never as anything that does something. */
export function Value({ value }: { value: Json }) {
  if (value === null) return <span class="null">null</span>;
  if (typeof value === "string") return <Text text={value} />;
  if (typeof value === "number") return <p class="scalar">{Number.isInteger(value) ? String(value) : figure(value)}</p>;
  if (typeof value === "boolean") return <p class="scalar">{String(value)}</p>;
  if (Array.isArray(value)) {
    const turns = chat(value);
    if (turns) return <Chat turns={turns} />;
    if (value.length === 0) return <p class="quiet">empty list</p>;
    if (value.every((item) => typeof item === "number" || item === null)) return <p class="scalar">{value.map((item) => (item === null ? "null" : String(item))).join("   ")}</p>;
    return (
      <ol class="items" start={1}>
        {value.map((item, index) => (
          <li key={index}>
            <Value value={item} />
          </li>
        ))}
      </ol>
    );
  }
  return <Text text={JSON.stringify(value, null, 2)} code />;
}

export function Text({ text, code = false }: { text: string; code?: boolean }) {
  if (text === "") return <p class="quiet">empty text</p>;
  return (
    <pre class={`text foreign ${code ? "code" : ""}`} dir="auto" tabIndex={text.length > 1200 ? 0 : undefined}>
      {text}
    </pre>
  );
}

interface Turn {
  role: string;
  content: Json;
}

function chat(value: Json[]): Turn[] | null {
  const fits = value.length > 0 && value.every((turn) => turn !== null && typeof turn === "object" && !Array.isArray(turn) && typeof turn["role"] === "string" && "content" in turn);
  return fits ? (value as unknown as Turn[]) : null;
}

function Chat({ turns }: { turns: Turn[] }) {
  return (
    <div class="chat">
      {turns.map((turn, index) => (
        <div key={index} class="turn" data-role={turn.role}>
          <b>{turn.role}</b>
          <Value value={turn.content} />
        </div>
      ))}
    </div>
  );
}

function Request({ number, request }: { number: number; request: Row }) {
  const told = (name: string) => request[name];
  const number_ = (name: string) => (typeof told(name) === "number" ? (told(name) as number) : null);
  return (
    <section class="request">
      <dl>
        <div>
          <dt>{number}</dt>
          <dd>{String(told("task") ?? "request")}</dd>
        </div>
        <div>
          <dt>model</dt>
          <dd class="foreign">{String(told("model") ?? "–")}</dd>
        </div>
        <div>
          <dt>tokens</dt>
          <dd>
            {count(number_("input_tokens"))} in, {count(number_("output_tokens"))} out
          </dd>
        </div>
        <div>
          <dt>cost</dt>
          <dd>{dollars(number_("cost_usd"))}</dd>
        </div>
        <div>
          <dt>latency</dt>
          <dd>{seconds(number_("latency_s"))}</dd>
        </div>
        <div>
          <dt>tries</dt>
          <dd>{count(number_("attempts"))}</dd>
        </div>
        <div>
          <dt>ended by</dt>
          <dd class="foreign">{String(told("finish_reason") ?? "–")}</dd>
        </div>
      </dl>
      {typeof told("error") === "string" && <Text text={told("error") as string} />}
      {typeof told("raw_input") === "string" && <Kept name="The prompt that was sent" text={told("raw_input") as string} />}
      {typeof told("raw_output") === "string" && <Kept name="The raw answer" text={told("raw_output") as string} />}
    </section>
  );
}

function Kept({ name, text }: { name: string; text: string }) {
  let value: Json = text;
  try {
    const read = JSON.parse(text) as Json;
    if (Array.isArray(read) && chat(read)) value = read;
  } catch {
    // It is text.
  }
  return (
    <details>
      <summary>{name}</summary>
      <Value value={value} />
    </details>
  );
}

function Raw({ dataset, requests: all }: { dataset: Dataset; requests: Row[] }) {
  // Those of tasks upstream are in the list too, and may have been kept.
  const requests = all.filter((each) => each["task"] === dataset.task["name"]);
  const missing = [
    !dataset.raw.input && !requests.some((each) => typeof each["raw_input"] === "string") && { what: "The prompt", how: "add_raw_input=True" },
    !dataset.raw.output && !requests.some((each) => typeof each["raw_output"] === "string") && { what: "The raw answer", how: "add_raw_output=True" },
  ].filter((each) => each !== false);
  if (!requests.length || !missing.length) return null;
  return (
    <p class="quiet">
      {missing.map((each) => each.what).join(" and ").replace(/ T/g, " t")} {missing.length > 1 ? "are" : "is"} not kept. To see {missing.length > 1 ? "them" : "it"} here, give the operator{" "}
      {missing.map((each, index) => (
        <>
          {index > 0 && " and "}
          <code>{each.how}</code>
        </>
      ))}
      .
    </p>
  );
}

function Copy({ row }: { row: Row }) {
  const [done, setDone] = useState("");
  const copy = async () => {
    const text = JSON.stringify(row, null, 2);
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // No clipboard without https: the old way still works there.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    setDone("Copied");
    window.setTimeout(() => setDone(""), 1500);
  };
  return (
    <button type="button" class="button small" onClick={() => void copy()}>
      {done || "Copy as JSON"}
    </button>
  );
}
