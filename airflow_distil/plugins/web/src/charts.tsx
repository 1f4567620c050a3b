// Pictures of numbers, as SVG: they take their colours from the style sheet, so light and dark need no code.
import { scaleLinear } from "d3-scale";
import { area, curveMonotoneX, curveStepAfter, line } from "d3-shape";
import type { Bars } from "./api";
import { compact, count, figure, percent, seconds } from "./format";
import { useWidth } from "./parts";

const MARGIN = { top: 8, right: 8, bottom: 22, left: 40 };

export interface Group {
  name: string;
  tone: string;
  bars: number[];
}

/** Bars over one scale; several groups stand side by side. */
export function Histogram({ data, groups, label, height = 150, shares = false }: { data: Bars; groups: Group[]; label: string; height?: number; shares?: boolean }) {
  const [ref, width] = useWidth();
  const bins = data.edges.length - 1;
  const totals = groups.map((group) => group.bars.reduce((sum, bar) => sum + bar, 0) || 1);
  // Datasets of different sizes are compared by shares.
  const values = groups.map((group, number) => group.bars.map((bar) => (shares ? (100 * bar) / (totals[number] ?? 1) : bar)));
  const top = Math.max(1e-9, ...values.flat());
  const x = scaleLinear([data.edges[0] ?? 0, data.edges[bins] ?? 1], [MARGIN.left, Math.max(MARGIN.left + 1, width - MARGIN.right)]);
  const y = scaleLinear([0, top], [height - MARGIN.bottom, MARGIN.top]).nice(3);
  const slot = width ? (x.range()[1]! - x.range()[0]!) / Math.max(1, bins) : 0;
  const gap = Math.min(3, slot * 0.15);
  const each = Math.min(72, (slot - gap) / Math.max(1, groups.length));
  const ticks = data.whole ? wholeTicks(data.edges, width) : x.ticks(Math.max(2, Math.min(6, width / 80)));
  return (
    <div ref={ref} class="chart">
      {width > 0 && (
        <svg width={width} height={height} role="img" aria-label={label}>
          {y.ticks(3).map((tick) => (
            <g key={tick}>
              <line class="grid" x1={MARGIN.left} x2={width - MARGIN.right} y1={y(tick)} y2={y(tick)} />
              <text class="tick" x={MARGIN.left - 6} y={y(tick)} dy="0.32em" text-anchor="end">
                {shares ? `${tick}%` : compact(tick)}
              </text>
            </g>
          ))}
          {groups.map((group, number) =>
            (values[number] ?? []).map((value, bin) => {
              const low = data.edges[bin] ?? 0;
              const high = data.edges[bin + 1] ?? 0;
              const range = data.whole ? figure(low + 0.5) : data.open && bin === bins - 1 ? `${figure(low)} and more` : `${figure(low)} to ${figure(high)}`;
              const middle = x(low) + (slot - each * groups.length) / 2;
              return (
                <g key={`${number}-${bin}`} class="bar">
                  <rect
                    data-tone={group.tone}
                    x={middle + each * number}
                    width={Math.max(1, each)}
                    y={y(value)}
                    height={Math.max(0, y(0) - y(value))}
                    rx={Math.min(2, each / 4)}
                  />
                  <rect class="hit" x={x(low) + (slot / groups.length) * number} width={slot / groups.length} y={MARGIN.top} height={height - MARGIN.top - MARGIN.bottom}>
                    <title>{`${groups.length > 1 ? `${group.name}: ` : ""}${range}: ${count(group.bars[bin])} (${percent(group.bars[bin] ?? 0, totals[number] ?? 1)})`}</title>
                  </rect>
                </g>
              );
            }),
          )}
          <line class="axis" x1={MARGIN.left} x2={width - MARGIN.right} y1={y(0)} y2={y(0)} />
          {ticks.map((tick) => (
            <text key={tick} class="tick" x={x(tick)} y={height - 6} text-anchor="middle">
              {figure(tick)}
            </text>
          ))}
        </svg>
      )}
    </div>
  );
}

function wholeTicks(edges: number[], width: number): number[] {
  const numbers = edges.slice(0, -1).map((edge) => edge + 0.5);
  const step = Math.ceil((numbers.length * 28) / Math.max(width, 1));
  return numbers.filter((_, index) => index % step === 0);
}

/** The same bars, without axes: one of several that are compared at a glance. */
export function Sparkbars({ bars, label }: { bars: number[]; label: string }) {
  const top = Math.max(1, ...bars);
  return (
    <svg class="sparkbars" viewBox={`0 0 ${bars.length * 10} 30`} preserveAspectRatio="none" role="img" aria-label={label}>
      {bars.map((bar, index) => (
        <rect key={index} x={index * 10 + 1} width={8} y={29 - (28 * bar) / top} height={(28 * bar) / top + 1} />
      ))}
    </svg>
  );
}

export interface Curve {
  name: string;
  tone: string;
  values: number[];
  style: "area" | "line" | "step";
}

/** Curves over the seconds since the start. Areas are stacked in their order. */
export function Curves({ at, curves, label, height = 160 }: { at: number[]; curves: Curve[]; label: string; height?: number }) {
  const [ref, width] = useWidth();
  const floor: number[] = at.map(() => 0);
  const drawn = curves.map((curve) => {
    const low = [...floor];
    const high = curve.values.map((value, index) => (curve.style === "area" ? (floor[index] = (floor[index] ?? 0) + value) : value));
    return { ...curve, low, high };
  });
  const top = Math.max(1, ...drawn.flatMap((curve) => curve.high));
  const x = scaleLinear([0, at[at.length - 1] || 1], [MARGIN.left, Math.max(MARGIN.left + 1, width - MARGIN.right)]);
  const y = scaleLinear([0, top], [height - MARGIN.bottom, MARGIN.top]).nice(3);
  const points = at.map((_, index) => index);
  return (
    <figure class="curves">
      <div ref={ref} class="chart">
        {width > 0 && (
          <svg width={width} height={height} role="img" aria-label={label}>
            {y.ticks(3).map((tick) => (
              <g key={tick}>
                <line class="grid" x1={MARGIN.left} x2={width - MARGIN.right} y1={y(tick)} y2={y(tick)} />
                <text class="tick" x={MARGIN.left - 6} y={y(tick)} dy="0.32em" text-anchor="end">
                  {compact(tick)}
                </text>
              </g>
            ))}
            {drawn.map((curve) => {
              const shape = curve.style === "step" ? curveStepAfter : curveMonotoneX;
              if (curve.style === "area") {
                const path = area<number>((index) => x(at[index] ?? 0), (index) => y(curve.low[index] ?? 0), (index) => y(curve.high[index] ?? 0)).curve(shape);
                return <path key={curve.name} class="area" data-tone={curve.tone} d={path(points) ?? ""} />;
              }
              const path = line<number>((index) => x(at[index] ?? 0), (index) => y(curve.high[index] ?? 0)).curve(shape);
              return <path key={curve.name} class="line" data-tone={curve.tone} d={path(points) ?? ""} />;
            })}
            <line class="axis" x1={MARGIN.left} x2={width - MARGIN.right} y1={y(0)} y2={y(0)} />
            {x.ticks(Math.max(2, Math.min(6, width / 90))).map((tick) => (
              <text key={tick} class="tick" x={x(tick)} y={height - 6} text-anchor="middle">
                {seconds(tick)}
              </text>
            ))}
          </svg>
        )}
      </div>
      <figcaption class="legend">
        {curves.map((curve) => (
          <span key={curve.name}>
            <i data-tone={curve.tone} aria-hidden="true" />
            {curve.name}
          </span>
        ))}
      </figcaption>
    </figure>
  );
}
