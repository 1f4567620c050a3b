// Pictures of a dataset, where people would rather look than read.
import { type Dataset, type Figures, get, type Series } from "./api";
import { Histogram, Sparkbars } from "./charts";
import { compact, figure } from "./format";
import { Failure, useLoad, Waiting } from "./parts";

export const NAMES: Record<string, string> = {
  latency_s: "Latency of requests, seconds",
  input_tokens: "Input tokens of requests",
  output_tokens: "Output tokens of requests",
};

export function titleOf(series: { name: string; what: Series["what"] }): string {
  if (series.what === "request") return NAMES[series.name] ?? series.name;
  return series.what === "length" ? `${series.name}: length in characters` : series.name;
}

export function DistributionsView({ dataset }: { dataset: Dataset }) {
  const loaded = useLoad(`${dataset.fingerprint}-${dataset.edition}`, (signal) => get<{ series: Series[] }>("distributions", {}, signal));
  if (loaded.error) return <Failure error={loaded.error} retry={loaded.again} />;
  if (!loaded.value) return <Waiting what="Looking at all rows …" />;
  const order = { value: 0, length: 1, request: 2 };
  const series = loaded.value.series.filter((each) => each.figures.count > 0).sort((a, b) => order[a.what] - order[b.what]);
  if (!series.length) return <p class="quiet">There are no numbers and no texts to count.</p>;
  return (
    <div class="cards">
      {series.map((each) => (
        <section key={`${each.what}-${each.name}`} class={`card ${each.parts.length ? "wide" : ""}`}>
          <h2>{titleOf(each)}</h2>
          <Summary figures={each.figures} />
          <Histogram data={each} groups={[{ name: each.name, tone: "one", bars: each.bars }]} label={described(titleOf(each), each.figures)} />
          {each.parts.length > 0 && <Parts series={each} />}
        </section>
      ))}
    </div>
  );
}

export function described(name: string, figures: Figures): string {
  return `${name}: ${compact(figures.count)} values from ${figure(figures.min)} to ${figure(figures.max)}, mean ${figure(figures.mean)}, median ${figure(figures.median)}`;
}

export function Summary({ figures }: { figures: Figures }) {
  return (
    <p class="figures">
      <span>
        mean <b>{figure(figures.mean)}</b>
      </span>
      <span>
        median <b>{figure(figures.median)}</b>
      </span>
      <span>
        90 % at most <b>{figure(figures.p90)}</b>
      </span>
      <span>
        max <b>{figure(figures.max)}</b>
      </span>
      <span class="quiet">{compact(figures.count)} values</span>
    </p>
  );
}

/** The same numbers by where they stood in the list, or by model: a judge that likes the first answer best is seen here. */
function Parts({ series }: { series: Series }) {
  const kinds = [...new Set(series.parts.map((part) => part.by))];
  return (
    <>
      {kinds.map((by) => {
        const parts = series.parts.filter((part) => part.by === by);
        const means = parts.map((part) => part.figures.mean ?? 0);
        const low = Math.min(series.figures.min ?? 0, ...means);
        const high = Math.max(series.figures.max ?? 1, ...means);
        return (
          <table key={by} class="parts">
            <caption>{by === "position" ? "By position in the list" : "By model"}</caption>
            <thead>
              <tr>
                <th scope="col">{by}</th>
                <th scope="col">mean</th>
                <th scope="col" class="meter-head">
                  {figure(low)} <span class="sr">to</span>
                  <span>{figure(high)}</span>
                </th>
                <th scope="col">values</th>
                <th scope="col">distribution</th>
              </tr>
            </thead>
            <tbody>
              {parts.map((part) => (
                <tr key={part.name}>
                  <th scope="row" class="foreign">
                    {by === "position" ? `${Number(part.name) + 1}` : part.name}
                  </th>
                  <td class="number">{figure(part.figures.mean)}</td>
                  <td>
                    <span class="dotline">
                      <i style={{ left: `${high > low ? (100 * ((part.figures.mean ?? low) - low)) / (high - low) : 50}%` }} />
                    </span>
                  </td>
                  <td class="number quiet">{compact(part.figures.count)}</td>
                  <td>
                    <Sparkbars bars={part.bars} label={described(`${series.name}, ${by} ${part.name}`, part.figures)} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        );
      })}
    </>
  );
}
