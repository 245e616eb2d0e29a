/**
 * The chart of `scale`: requests a second against idle handlers, with and without removal.
 *
 * A sweep becomes two lines, other runs a group of bars each. The steps of a sweep are categories,
 * as a logarithmic axis has no place for 0. The drawing is done by echarts on the server side, which
 * needs no browser. Colours differ in lightness too, so that the lines can be told apart in grey.
 */
import * as echarts from "echarts";
import { type Report, whole } from "./scale_report.ts";

const WIDTH = 960, HEIGHT = 560;
const REMOVAL_ON = "#1a6fb5", REMOVAL_OFF = "#e08a2e";
const INK = "#24292f", FAINT = "#57606a", GRID = "#e4e7eb";
const FONT = "'DejaVu Sans', 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";

/** Lines nearer than this share of each other would have labels one over the other. */
const LINES_MEET = 0.85;

/** What the runs are. */
export type ChartKind = "sweep" | "runs";

/**
 * Draws the chart.
 *
 * @param subtitle what was measured and where, a line each
 * @returns an SVG document
 */
export function drawChart(report: Report, kind: ChartKind, subtitle: string): string {
  const chart = echarts.init(null, null, {
    renderer: "svg",
    ssr: true,
    width: WIDTH,
    height: HEIGHT,
  });
  chart.setOption(describeChart(report, kind, subtitle));
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
}

function describeChart(report: Report, kind: ChartKind, subtitle: string): echarts.EChartsOption {
  const counts = [...new Set(report.runs.map((run) => run.idleHandlers))];
  return {
    animation: false,
    backgroundColor: "#ffffff",
    textStyle: { fontFamily: FONT, color: INK },
    title: {
      text: "One busy device beside idle ones",
      subtext: subtitle,
      left: 32,
      top: 20,
      textStyle: { fontFamily: FONT, fontSize: 20, color: INK },
      subtextStyle: { fontFamily: FONT, fontSize: 13, lineHeight: 18, color: FAINT },
    },
    legend: {
      left: 90,
      top: 102,
      itemWidth: 22,
      itemGap: 36,
      textStyle: { fontFamily: FONT, fontSize: 14, color: INK },
    },
    grid: { left: 96, right: 40, top: 164, bottom: 76 },
    xAxis: {
      type: "category",
      data: counts.map(whole),
      name: "idle handlers",
      nameLocation: "middle",
      nameGap: 38,
      nameTextStyle: { fontFamily: FONT, fontSize: 14, color: FAINT },
      axisLabel: { fontFamily: FONT, fontSize: 13, color: INK },
      axisLine: { lineStyle: { color: FAINT } },
      axisTick: { show: false },
    },
    yAxis: {
      type: "value",
      min: 0,
      name: "thousand requests per second",
      nameLocation: "middle",
      nameGap: 58,
      nameTextStyle: { fontFamily: FONT, fontSize: 14, color: FAINT },
      axisLabel: {
        fontFamily: FONT,
        fontSize: 13,
        color: INK,
        formatter: (value: number) => whole(value / 1000),
      },
      splitLine: { lineStyle: { color: GRID } },
    },
    series: [false, true].flatMap((removal) => describeSeries(report, kind, counts, removal)),
  };
}

function describeSeries(
  report: Report,
  kind: ChartKind,
  counts: readonly number[],
  removal: boolean,
): echarts.SeriesOption[] {
  if (report.runs.every((run) => run.removal !== removal)) return [];
  const labels = counts.map((count) => {
    const iops = iopsOf(report, count, removal), other = iopsOf(report, count, !removal);
    // One label is enough where the two lines meet.
    if (iops === null) return "";
    const meet = kind === "sweep" && !removal && other !== null && iops > other * LINES_MEET;
    return meet ? "" : label(iops);
  });
  const common = {
    name: removal ? "idle handlers removed" : "all handlers polled",
    data: counts.map((count) => iopsOf(report, count, removal)),
    itemStyle: { color: removal ? REMOVAL_ON : REMOVAL_OFF },
    label: {
      show: true,
      position: "top",
      distance: 8,
      // The line of the polled handlers falls, so there is room above and right of its points.
      offset: kind === "sweep" && !removal ? [18, 0] : [0, 0],
      fontFamily: FONT,
      fontSize: 13,
      color: removal ? REMOVAL_ON : "#a85d0c",
      formatter: ({ dataIndex }: { dataIndex: number }) => labels[dataIndex],
    },
  } as const;
  if (kind === "runs") return [{ ...common, type: "bar", barMaxWidth: 90 }];
  return [{
    ...common,
    type: "line",
    symbol: removal ? "circle" : "rect",
    symbolSize: 9,
    lineStyle: { width: 3 },
  }];
}

function iopsOf(report: Report, idleHandlers: number, removal: boolean): number | null {
  const run = report.runs.find((run) =>
    run.idleHandlers === idleHandlers && run.removal === removal
  );
  return run?.iops ?? null;
}

/** Thousands of requests, with a decimal where there are few. */
function label(iops: number): string {
  return iops < 10_000 ? `${(iops / 1000).toFixed(1)}k` : `${whole(iops / 1000)}k`;
}
