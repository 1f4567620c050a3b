// Two runs of the same task side by side.
import { diffWordsWithSpace } from "diff";
import { useState } from "preact/hooks";
import { type Cells, type Comparison, type Dataset, type Difference, get, type Pair, type Run, runId } from "./api";
import { Histogram } from "./charts";
import { titleOf } from "./distributions";
import { count, figure, time } from "./format";
import { Badge, Failure, useLoad, Waiting } from "./parts";

const PAGE = 20;
// Longer texts have too many words in common to say anything, and take long to compare.
const DIFFED = 1600;

export function CompareView({ dataset }: { dataset: Dataset }) {
  const runs = useLoad("runs", (signal) => get<{ runs: Run[] }>("runs", {}, signal));
  const [chosen, setChosen] = useState<string | null>(null);
  if (runs.error) return <Failure error={runs.error} retry={runs.again} />;
  if (!runs.value) return <Waiting what="Looking for other runs …" />;
  const others = runs.value.runs.filter((run) => run.dag_run_id !== runId);
  if (!others.length) return <p class="nothing">There is no other run of this DAG to compare with yet.</p>;
  const here = runs.value.runs.findIndex((run) => run.dag_run_id === runId);
  const other = chosen ?? (runs.value.runs[here + 1] ?? others[0])?.dag_run_id ?? "";
  return (
    <div class="compare">
      <p class="toolbar">
        <label>
          Compare with run{" "}
          <select class="input" value={other} onChange={(event) => setChosen(event.currentTarget.value)}>
            {others.map((run) => (
              <option key={run.dag_run_id} value={run.dag_run_id}>
                {`${run.dag_run_id} (${run.state}, ${time(run.run_after)})`}
              </option>
            ))}
          </select>
        </label>
        <Badge state={others.find((run) => run.dag_run_id === other)?.state ?? null} />
      </p>
      <Differences key={`d-${other}`} dataset={dataset} other={other} />
      <Pairs key={`p-${other}`} dataset={dataset} other={other} />
    </div>
  );
}

function Differences({ dataset, other }: { dataset: Dataset; other: string }) {
  const loaded = useLoad(`${dataset.fingerprint}-${other}`, (signal) => get<{ series: Difference[] }>("differences", { other_run_id: other }, signal));
  if (loaded.error) return null; // said once, above the rows
  if (!loaded.value) return <Waiting what="Comparing the numbers …" />;
  const order = { value: 0, length: 1, request: 2 };
  const series = loaded.value.series.filter((each) => each.figures.some((one) => one.count > 0)).sort((a, b) => order[a.what] - order[b.what]);
  return (
    <div class="cards">
      {series.map((each) => {
        const [mine, theirs] = each.figures;
        const moved = (mine.mean ?? 0) - (theirs.mean ?? 0);
        return (
          <section key={`${each.what}-${each.name}`} class="card">
            <h2>{titleOf(each)}</h2>
            <p class="figures">
              <span>
                mean <b>{figure(theirs.mean)}</b> → <b>{figure(mine.mean)}</b>
              </span>
              <span class="quiet">{`${moved > 0 ? "+" : ""}${figure(moved)}`}</span>
            </p>
            <Histogram
              data={each}
              shares
              height={130}
              groups={[
                { name: "other run", tone: "two", bars: each.bars[1] },
                { name: "this run", tone: "one", bars: each.bars[0] },
              ]}
              label={`${titleOf(each)}: mean ${figure(theirs.mean)} in the other run, ${figure(mine.mean)} in this one`}
            />
            <p class="legend">
              <span>
                <i data-tone="two" aria-hidden="true" /> other run
              </span>
              <span>
                <i data-tone="one" aria-hidden="true" /> this run
              </span>
            </p>
          </section>
        );
      })}
    </div>
  );
}

function Pairs({ dataset, other }: { dataset: Dataset; other: string }) {
  const [only, setOnly] = useState(true);
  const [offset, setOffset] = useState(0);
  const loaded = useLoad(`${dataset.fingerprint}-${other}-${only}-${offset}`, (signal) =>
    get<Comparison>("compare", { other_run_id: other, only_different: only, offset, limit: PAGE }, signal),
  );
  if (loaded.error) return <Failure error={loaded.error} retry={loaded.again} />;
  if (!loaded.value) return <Waiting what="Comparing the rows …" />;
  const found = loaded.value;
  const last = Math.min(found.total, offset + PAGE);
  return (
    <section aria-label="Rows side by side">
      <p class="toolbar">
        <span>
          <b>{count(found.both)}</b> rows in both
          {found.different !== null && (
            <>
              , <b>{count(found.different)}</b> with another answer
            </>
          )}
          {found.only_one > 0 && `, ${count(found.only_one)} only in this run`}
          {found.only_other > 0 && `, ${count(found.only_other)} only in the other`}
        </span>
        <span class="grow" />
        <label class="check">
          <input
            type="checkbox"
            checked={only}
            disabled={found.different === null}
            onChange={(event) => {
              setOnly(event.currentTarget.checked);
              setOffset(0);
            }}
          />
          only what differs
        </label>
        <button type="button" class="button small" disabled={offset === 0} onClick={() => setOffset(Math.max(0, offset - PAGE))} aria-label="Pairs before">
          ‹
        </button>
        <span class="quiet">{found.total ? `${count(offset + 1)} to ${count(last)} of ${count(found.total)}` : "none"}</span>
        <button type="button" class="button small" disabled={last >= found.total} onClick={() => setOffset(offset + PAGE)} aria-label="Pairs after">
          ›
        </button>
      </p>
      {found.total === 0 && <p class="nothing">{only ? "All rows have the same answers in both runs." : "There are no rows."}</p>}
      {found.pairs.map((pair, index) => (
        <PairCard key={index} pair={pair} found={found} samples={Number(dataset.task["num_generations"] ?? 1) > 1} />
      ))}
    </section>
  );
}

function PairCard({ pair, found, samples }: { pair: Pair; found: Comparison; samples: boolean }) {
  const either = pair.one ?? pair.other ?? {};
  const input = found.inputs.find((name) => typeof either[name] === "string");
  const sample = either["distil_sample"];
  return (
    <article class="pair">
      <h3>
        Row {String(either["distil_row"] ?? "")}
        {samples && typeof sample === "number" ? `.${sample}` : ""}
        {pair.differ === false && <span class="quiet"> the same</span>}
        {input && (
          <span class="foreign quiet lead" dir="auto">
            {String(either[input])}
          </span>
        )}
      </h3>
      <div class="sides">
        <Side name="other run" cells={pair.other} columns={found.columns} against={pair.one} sign="removed" />
        <Side name="this run" cells={pair.one} columns={found.columns} against={pair.other} sign="added" />
      </div>
    </article>
  );
}

function Side({ name, cells, columns, against, sign }: { name: string; cells: Cells | null; columns: string[]; against: Cells | null; sign: "added" | "removed" }) {
  if (!cells) return <div class="side"><h4>{name}</h4><p class="quiet">has no such row</p></div>;
  const status = String(cells["distil_status"] ?? "ok");
  return (
    <div class="side">
      <h4>
        {name} {status !== "ok" && <span class="fate" data-fate={status}>{status}</span>}
      </h4>
      {status !== "ok" && cells["distil_error"] !== null && <p class="foreign quiet">{String(cells["distil_error"])}</p>}
      <dl>
        {columns.map((column) => (
          <div key={column}>
            {columns.length > 1 && <dt>{column}</dt>}
            <dd class="foreign" dir="auto">
              <Marked value={cells[column] ?? null} against={against?.[column] ?? null} sign={sign} />
            </dd>
          </div>
        ))}
      </dl>
    </div>
  );
}

function Marked({ value, against, sign }: { value: Cells[string]; against: Cells[string]; sign: "added" | "removed" }) {
  if (value === null) return <span class="null">null</span>;
  if (typeof value === "number" && typeof against === "number" && value !== against) return <mark data-sign={sign}>{String(value)}</mark>;
  if (typeof value !== "string" || typeof against !== "string" || value === against || Math.max(value.length, against.length) > DIFFED) return <>{String(value)}</>;
  const [before, after] = sign === "added" ? [against, value] : [value, against];
  return (
    <>
      {diffWordsWithSpace(before, after)
        .filter((part) => !part[sign === "added" ? "removed" : "added"])
        .map((part, index) => (part[sign] ? <mark key={index} data-sign={sign}>{part.value}</mark> : <span key={index}>{part.value}</span>))}
    </>
  );
}
