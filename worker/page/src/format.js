// Values as people read them.

export function number(value, digits = 0) {
  if (value === undefined || value === null) return "–";
  if (Math.abs(value) >= 10000) return new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(value);
  return new Intl.NumberFormat("en", { maximumFractionDigits: digits, minimumFractionDigits: 0 }).format(value);
}

export function speed(value) {
  return number(value, value < 10 ? 2 : value < 100 ? 1 : 0);
}

export function percent(value) {
  return value === undefined || value === null ? "–" : `${Math.round(value * 100)} %`;
}

export function milliseconds(value) {
  if (value === undefined || value === null) return "–";
  return value >= 10000 ? `${number(value / 1000, 1)} s` : `${number(value, value < 10 ? 1 : 0)} ms`;
}

// 45 s, 3 min, 2 h 5 min, 3 d
export function duration(seconds) {
  if (seconds === undefined || seconds === null) return "–";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 90) return `${whole} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.round(hours / 24)} d`;
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

// LatencyTargetMissed -> latency target missed
export function words(camel) {
  return (camel ?? "").replace(/([a-z0-9])([A-Z])/g, "$1 $2").toLowerCase();
}

export function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}
