// What each attempt did and paid.
import { type Attempts, get, type Instance } from "./api";
import { compact, count, dollars, seconds, time } from "./format";
import { Badge, Failure, useLoad, Waiting } from "./parts";

export function AttemptsView({ known }: { known: Instance }) {
  const { place, instance, progress } = known;
  const loaded = useLoad(`${place.run_id}-${instance.try_number}-${instance.state}-${progress?.at ?? ""}`, (signal) => get<Attempts>("attempts", {}, signal));
  if (loaded.error) return <Failure error={loaded.error} retry={loaded.again} />;
  if (!loaded.value) return <Waiting what="Reading the log of answers …" />;
  const { attempts, others, complete, tries } = loaded.value;
  const total = attempts.reduce((sum, each) => sum + each.answers, 0);
  return (
    <section class="card wide">
      <h2>Attempts</h2>
      <p class="quiet">
        Each attempt takes a claim, and pays only for what the log does not have yet: {count(total)} answers were paid for under {count(attempts.length)} {attempts.length === 1 ? "claim" : "claims"}.
      </p>
      <div class="scroll" tabIndex={0} role="region" aria-label="Attempts">
        <table class="plain">
          <thead>
            <tr>
              <th scope="col">Claim</th>
              <th scope="col">Try</th>
              <th scope="col">State</th>
              <th scope="col">Began</th>
              <th scope="col">Took</th>
              <th scope="col">Host</th>
              <th scope="col" class="number">Answers paid</th>
              <th scope="col" class="number">Refused</th>
              <th scope="col" class="number">Tokens in</th>
              <th scope="col" class="number">out</th>
              <th scope="col" class="number">Cost</th>
              <th scope="col">Published</th>
            </tr>
          </thead>
          <tbody>
            {attempts.map((each) => {
              const told = tries.find((one) => one.try_number === each.try_number);
              return (
                <tr key={each.claim}>
                  <th scope="row">{each.claim}</th>
                  <td>{each.try_number}</td>
                  <td>{told ? <Badge state={told.state} /> : "–"}</td>
                  <td>{time(each.created_at)}</td>
                  <td>{seconds(told?.duration)}</td>
                  <td>{each.host}</td>
                  <td class="number">{count(each.answers)}</td>
                  <td class="number">{count(each.refused)}</td>
                  <td class="number">{compact(each.input_tokens)}</td>
                  <td class="number">{compact(each.output_tokens)}</td>
                  <td class="number">{dollars(each.cost_usd)}</td>
                  <td>{each.edition ? `edition ${each.edition}` : <span class="quiet">nothing</span>}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
      {attempts.length === 0 && <p class="quiet">No attempt of this task instance has taken a claim: what is published was there already.</p>}
      {others > 0 && <p class="quiet">{count(others)} more {others === 1 ? "claim is" : "claims are"} of other runs, or older.</p>}
      {!complete && <p class="quiet">The log is larger than this page reads: the figures of what was paid are of its first part.</p>}
    </section>
  );
}
