/** The median of measurements, of which there is one at least; null where there are none to be had. */
export function median(values: readonly number[]): number;
export function median(values: readonly number[] | null): number | null;
export function median(values: readonly number[] | null): number | null {
  if (values === null) return null;
  const sorted = values.toSorted((one, other) => one - other);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
