// The same numbers as scoring.py, to the last digits that a reader sees; a test compares both.
"use strict";

const LEVEL = 0.95;

function score(counts) {
  const generated = counts.hits + counts.misses;
  const real = counts.falseAlarms + counts.correctRejections;
  const zHit = zScore(counts.hits, generated), zFalseAlarm = zScore(counts.falseAlarms, real);
  const variance = zVariance(counts.hits, generated) + zVariance(counts.falseAlarms, real);
  const reach = normalQuantile((1 + LEVEL) / 2) * Math.sqrt(variance);
  return {
    accuracy: share(counts.hits + counts.correctRejections, generated + real),
    hitRate: share(counts.hits, generated),
    falseAlarmRate: share(counts.falseAlarms, real),
    dPrime: around(zHit - zFalseAlarm, reach),
    criterion: around(-(zHit + zFalseAlarm) / 2, reach / 2),
  };
}

function around(value, reach) {
  return [value, value - reach, value + reach];
}

// A share with its exact interval (Clopper and Pearson 1934): at the ends, a result as far out
// has half of what the level leaves.
function share(number, of) {
  const outside = (1 - LEVEL) / 2;
  const low = number === 0 ? 0 : rootOf(p => binomialTail(number, of, p) - outside, 0, 1);
  const high = number === of ? 1 : rootOf(p => binomialTail(number + 1, of, p) - 1 + outside, 0, 1);
  return [number / of, low, high];
}

// Log-linear correction (Hautus 1995): never 0 or 1, whose z would be infinite.
function correctedRate(number, of) {
  return (number + 0.5) / (of + 1);
}

function zScore(number, of) {
  return normalQuantile(correctedRate(number, of));
}

// Gourevitch and Galanter (1967).
function zVariance(number, of) {
  const rate = correctedRate(number, of);
  return rate * (1 - rate) / (of * normalDensity(zScore(number, of)) ** 2);
}

// Probability of `least` or more out of `of`.
function binomialTail(least, of, p) {
  if (p <= 0 || p >= 1) return p >= 1 ? 1 : 0;
  let logTerm = 0, sum = 0;
  for (let k = 1; k <= least; k++) logTerm += Math.log((of - k + 1) / k);
  logTerm += least * Math.log(p) + (of - least) * Math.log1p(-p);
  for (let k = least; k <= of; k++) {
    sum += Math.exp(logTerm);
    logTerm += Math.log((of - k) / (k + 1)) + Math.log(p) - Math.log1p(-p);
  }
  return sum;
}

function normalDensity(x) {
  return Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
}

// Taylor series (Marsaglia 2004).
function normalProbability(x) {
  let sum = 0, term = x;
  for (let k = 3; sum + term !== sum; k += 2) {
    sum += term;
    term *= x * x / k;
  }
  return 0.5 + sum * normalDensity(x);
}

function normalQuantile(probability) {
  return rootOf(x => normalProbability(x) - probability, -8, 8);
}

// Of a function that rises, by bisection: 100 halvings are more than a number has bits.
function rootOf(rising, low, high) {
  for (let halving = 0; halving < 100; halving++) {
    const middle = (low + high) / 2;
    if (rising(middle) < 0) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}
