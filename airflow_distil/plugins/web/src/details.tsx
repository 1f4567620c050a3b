// Where the dataset is, what it was made with, and what stands before and after it.
import type { ComponentChildren } from "preact";
import { type Instance, type Json, type Neighbour, pageUrl, runId } from "./api";
import { Text } from "./drawer";
import { bytes, count, time } from "./format";
import { AirflowLink } from "./parts";

export function DetailsView({ known }: { known: Instance }) {
  const { dataset, progress, neighbours } = known;
  return (
    <div class="cards two">
      <section class="card">
        <h2>Before and after</h2>
        <Facts>
          <Fact name="Upstream"><Tasks tasks={neighbours.upstream} /></Fact>
          <Fact name="Downstream"><Tasks tasks={neighbours.downstream} /></Fact>
        </Facts>
        {dataset && (
          <>
            <h3>Made from</h3>
            <ul class="reasons">
              {dataset.inputs.map((input, index) => (
                <li key={index} class="foreign">
                  <Input input={input} />
                </li>
              ))}
              {dataset.more_inputs > 0 && <li class="quiet">and {count(dataset.more_inputs)} more</li>}
              {dataset.inputs.length === 0 && <li class="quiet">no files: it makes its rows itself, or they were published as they are</li>}
            </ul>
          </>
        )}
      </section>
      {dataset ? (
        <section class="card">
          <h2>Dataset</h2>
          <Facts>
            <Fact name="Destination"><code class="foreign">{dataset.uri}</code></Fact>
            <Fact name="Edition">{`${dataset.edition}, published ${time(dataset.created_at)}`}</Fact>
            {dataset.published_by && <Fact name="Published by run"><AirflowLink place={{ run_id: dataset.published_by }}>{dataset.published_by}</AirflowLink></Fact>}
            <Fact name="Size">{`${bytes(dataset.bytes)} in ${count(dataset.parts)} ${dataset.parts === 1 ? "part" : "parts"}${dataset.members ? `, ${count(dataset.members)} datasets` : ""}`}</Fact>
            <Fact name="Fingerprint"><code>{dataset.fingerprint}</code></Fact>
            <Fact name="Claim, round">{`${dataset.claim}, ${dataset.round}`}</Fact>
            <Fact name="Two at a time">{dataset.fencing === "none" ? "the store does not keep attempts apart" : "kept apart by the store"}</Fact>
            <Fact name="Made with">{Object.entries(dataset.versions).map(([name, version]) => `${name} ${version}`).join(", ")}</Fact>
          </Facts>
        </section>
      ) : (
        <section class="card">
          <h2>Destination</h2>
          <p>{progress?.destination ? <code class="foreign">{progress.destination}</code> : <span class="quiet">not known yet</span>}</p>
        </section>
      )}
      {dataset && Object.keys(dataset.task).length > 0 && (
        <section class="card wide">
          <h2>Task and parameters</h2>
          <Facts>
            <Fact name="Model"><span class="foreign">{dataset.model ?? "–"}</span></Fact>
            {Object.entries(dataset.task)
              .filter(([, value]) => value !== null && value !== "" && value !== false && JSON.stringify(value) !== "{}" && JSON.stringify(value) !== "[]")
              .map(([name, value]) => (
                <Fact key={name} name={name}><Setting value={value} /></Fact>
              ))}
          </Facts>
        </section>
      )}
      {dataset && (
        <section class="card wide">
          <h2>Columns</h2>
          <div class="scroll" tabIndex={0} role="region" aria-label="Columns">
            <table class="plain">
              <thead>
                <tr>
                  <th scope="col">Name</th>
                  <th scope="col">Type</th>
                  <th scope="col">From</th>
                </tr>
              </thead>
              <tbody>
                {dataset.columns.map((column) => (
                  <tr key={column.name}>
                    <th scope="row" class="foreign">{column.name}</th>
                    <td><code>{column.type.length > 90 ? `${column.type.slice(0, 90)}…` : column.type}</code></td>
                    <td>{{ input: "the source", output: "this task", ours: "airflow-distil" }[column.role]}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </section>
      )}
    </div>
  );
}

function Facts({ children }: { children: ComponentChildren }) {
  return <dl class="facts">{children}</dl>;
}

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function Tasks({ tasks }: { tasks: Neighbour[] }) {
  if (!tasks.length) return <span class="quiet">none</span>;
  return (
    <>
      {tasks.map((task) => (
        <span key={task.task_id} class="neighbour">
          {task.linked ? <a href={pageUrl(task.mapped ? {} : { task_id: task.task_id })}>{task.task_id}</a> : <AirflowLink place={{ run_id: runId, task_id: task.task_id }}>{task.task_id}</AirflowLink>}
          {task.linked ? <span class="quiet"> dataset</span> : null}
        </span>
      ))}
    </>
  );
}

function Input({ input }: { input: Record<string, Json> }) {
  if (typeof input["uri"] === "string") return <>{`${input["uri"]}${typeof input["size"] === "number" ? ` (${bytes(input["size"])})` : ""}`}</>;
  if (typeof input["manifest"] === "string") return <>{`an edition whose manifest is ${input["manifest"].slice(0, 16)}…`}</>;
  if (typeof input["rows"] === "string") return <>rows given in the DAG or by an upstream task</>;
  return <>{JSON.stringify(input)}</>;
}

function Setting({ value }: { value: Json }) {
  if (typeof value === "string" && value.length > 60) return <Text text={value} />;
  return <span class="foreign">{typeof value === "string" ? value : JSON.stringify(value)}</span>;
}
