// How the run goes, or went: curves, and what went wrong.
import type { Instance } from "./api";
import { Curves } from "./charts";
import { count, time } from "./format";

const RETRIES: Record<string, string> = {
  RateLimited: "the endpoint asked to slow down (429)",
  Transient: "a passing failure: timeout, lost connection, 5xx, or an answer that was none",
};

export function Live({ known }: { known: Instance }) {
  const { progress, dataset } = known;
  if (!progress) return <p class="quiet">The task has told nothing yet.</p>;
  const told = progress.samples ?? [];
  // It began with nothing; the first sample is some seconds later.
  const samples = told.length ? [[0, 0, 0, 0, 0, told[0]?.[5] ?? 0, 0], ...told] : told;
  const at = samples.map((sample) => sample[0] ?? 0);
  const column = (index: number) => samples.map((sample) => sample[index] ?? 0);
  const reasons = progress.reasons ?? [];
  const retries = Object.entries(progress.retries ?? {});
  // While it runs there are kinds; what exactly was said is published with the rows.
  const words = Object.entries(dataset?.reasons ?? {}).map(([kind, number]) => ({ kind, count: number, rows: [] as number[] }));
  const shown = words.length ? words : reasons;
  return (
    <div class="cards two">
      {samples.length > 2 ? (
        <>
          <section class="card">
            <h2>Rows over time</h2>
            <Curves
              at={at}
              label="Rows by what became of them, over time"
              curves={[
                { name: "ok or skipped", tone: "ok", values: column(1), style: "area" },
                { name: "unparsed", tone: "unparsed", values: column(2), style: "area" },
                { name: "failed", tone: "failed", values: column(3), style: "area" },
              ]}
            />
          </section>
          <section class="card">
            <h2>Requests in flight</h2>
            <Curves
              at={at}
              label="Requests in flight, and the limit that was found, over time"
              curves={[
                { name: "in flight", tone: "one", values: column(4), style: "area" },
                { name: "limit", tone: "two", values: column(5), style: "step" },
              ]}
            />
          </section>
        </>
      ) : (
        <section class="card">
          <h2>Over time</h2>
          <p class="quiet">{progress.phase === "published already" ? "Nothing was asked: the dataset was published already." : "Too short for a curve: there is one point a second."}</p>
        </section>
      )}
      <section class="card">
        <h2>Why rows are not ok</h2>
        {shown.length === 0 ? (
          <p class="quiet">No row has failed, and none was unparsed.</p>
        ) : (
          <ul class="reasons">
            {shown.map((each) => (
              <li key={each.kind}>
                <b>{count(each.count)} ×</b> <span class="foreign">{each.kind}</span>
                {each.rows.length > 0 && <span class="quiet"> row {each.rows.join(", ")}{each.count > each.rows.length ? ", …" : ""}</span>}
              </li>
            ))}
          </ul>
        )}
      </section>
      <section class="card">
        <h2>Asked again</h2>
        {retries.length === 0 ? (
          <p class="quiet">No request had to be repeated.</p>
        ) : (
          <ul class="reasons">
            {retries.map(([kind, times]) => (
              <li key={kind}>
                <b>{count(times)} ×</b> {RETRIES[kind] ?? kind}
              </li>
            ))}
          </ul>
        )}
        <p class="quiet">
          {count(progress.calls)} {progress.calls === 1 ? "call" : "calls"}; {count(progress.replayed)} rows came from earlier attempts. As of {time(progress.at)}.
        </p>
      </section>
    </div>
  );
}
