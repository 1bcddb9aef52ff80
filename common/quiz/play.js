// One question after the other, then the result. Texts go into the page as text only.

const KINDS = ["real", "generated"];
// Nobody sees and judges an image in less: a second click meant the image before.
const FASTEST_MS = 200;
// Images up to this many pixels wide are enlarged with square pixels, as in the report.
const SMALL = 160;

const quiz = JSON.parse(byId("quiz").textContent);
const answers = [];
let shownAt = null;

byId("begin").addEventListener("click", begin);
byId("download").addEventListener("click", download);
for (const kind of KINDS) byId(kind).addEventListener("click", () => answer(kind));
document.addEventListener("keydown", pressed);

function begin() {
  byId("start").hidden = true;
  byId("question").hidden = false;
  document.body.classList.add("playing");
  byId("stage").focus();
  ask();
}

function pressed(event) {
  const chosen = { ArrowLeft: "real", ArrowRight: "generated" }[event.key];
  if (byId("question").hidden || event.altKey || event.ctrlKey || event.metaKey) return;
  if (!chosen && event.key !== "ArrowUp") return;
  event.preventDefault();
  if (event.repeat) return;
  if (chosen) answer(chosen);
  else byId("unsure").checked = !byId("unsure").checked;
}

async function ask() {
  const image = picture(answers.length, `Image ${answers.length + 1}`);
  await image.decode();
  byId("stage").replaceChildren(image);
  byId("place").textContent = `Image ${answers.length + 1} of ${quiz.images.length}`;
  byId("progress").value = answers.length;
  byId("unsure").checked = false;
  // The clock starts when the image is on the screen.
  requestAnimationFrame(() => requestAnimationFrame(now => { shownAt = now; }));
}

function answer(kind) {
  const now = performance.now();
  if (shownAt === null || now - shownAt < FASTEST_MS) return;
  answers.push({ answer: kind, sure: !byId("unsure").checked, ms: Math.round(now - shownAt) });
  shownAt = null;
  if (answers.length < quiz.images.length) ask();
  else finish();
}

function finish() {
  const rows = played();
  const counts = countsOf(rows);
  byId("question").hidden = true;
  byId("result").hidden = false;
  document.body.classList.remove("playing");
  byId("played").textContent = `${quiz.facts.experiment}, run ${quiz.facts.run}`;
  byId("result-h").textContent = `${ofThese(rows.filter(isRight), rows)} right`;
  byId("verdict").textContent = verdict(score(counts));
  byId("pace").textContent = pace(rows);
  byId("measures").append(...measures(score(counts)));
  byId("outcomes").append(...outcomes(rows));
  byId("facts").append(...Object.entries(quiz.facts).map(([name, value]) => tableRow(name, value)));
  showClasses(rows);
  window.scrollTo(0, 0);
  byId("result-h").focus();
}

// Every answer as a row of the CSV.
function played() {
  const truths = unsealed(quiz.sealed, quiz.key);
  return answers.map((given, index) => ({
    ...quiz.facts,
    ...truths[index],
    position: index + 1,
    answer: given.answer,
    correct: given.answer === truths[index].truth ? "yes" : "no",
    sure: given.sure ? "yes" : "no",
    response_ms: given.ms,
  }));
}

// What `seal` of page.py has hidden.
function unsealed(sealed, key) {
  let state = key;
  const bytes = Uint8Array.from(atob(sealed), letter => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return letter.charCodeAt(0) ^ (state >>> 24);
  });
  return JSON.parse(new TextDecoder().decode(bytes));
}

function countsOf(rows) {
  const number = (truth, said) => rows.filter(r => r.truth === truth && r.answer === said).length;
  return {
    hits: number("generated", "generated"),
    misses: number("generated", "real"),
    falseAlarms: number("real", "generated"),
    correctRejections: number("real", "real"),
  };
}

function verdict(found) {
  const [, low, high] = found.accuracy;
  const above = "The interval of the accuracy lies above 50 %: real and generated were told apart.";
  const below = "The interval of the accuracy lies below 50 %: real and generated were told apart, "
    + "and named the wrong way round.";
  const around = "The interval of the accuracy holds 50 %: these answers show neither that real "
    + "and generated can be told apart nor that they cannot.";
  return low > 0.5 ? above : high < 0.5 ? below : around;
}

function pace(rows) {
  const times = rows.map(row => row.response_ms).sort((a, b) => a - b);
  const median = (times[(times.length - 1) >> 1] + times[times.length >> 1]) / 2000;
  const sure = rows.filter(row => row.sure === "yes"), unsure = rows.filter(row => row.sure === "no");
  const split = `; right when sure ${ofThese(sure.filter(isRight), sure)}, when not sure `
    + `${ofThese(unsure.filter(isRight), unsure)}`;
  return `Median time for an answer ${median.toFixed(1)} s${unsure.length ? split : ""}.`;
}

function measures(found) {
  const rows = [
    ["Accuracy", "right answers; 50 % by chance; exact binomial interval", found.accuracy, percent],
    ["Hit rate", "generated images called generated", found.hitRate, percent],
    ["False-alarm rate", "real images called generated", found.falseAlarmRate, percent],
    ["d′", "distance of real and generated in standard deviations, 0 where they look the same; "
      + "log-linear correction", found.dPrime, decimal],
    ["Criterion c", "above 0 leans to real, below 0 to generated", found.criterion, decimal],
  ];
  return rows.map(([name, meaning, [value, low, high], shown]) => {
    const row = tableRow(name, shown(value), interval(low, high, shown));
    row.firstChild.append(element("span", meaning, "unit"));
    return row;
  });
}

function showClasses(rows) {
  const names = [...new Set(rows.map(row => row.class))].sort();
  byId("by-class").hidden = names.length === 1 && names[0] === "";
  byId("classes").append(...names.map(name => {
    const mine = rows.filter(row => row.class === name), counts = countsOf(mine);
    const [, low, high] = share(mine.filter(isRight).length, mine.length);
    return tableRow(
      name || "—",
      ofThese(mine.filter(isRight), mine),
      interval(low, high, percent),
      `${counts.hits} of ${counts.hits + counts.misses}`,
      `${counts.falseAlarms} of ${counts.falseAlarms + counts.correctRejections}`,
    );
  }));
}

// All images in four groups; the mistakes come first.
function outcomes(rows) {
  const groups = [["generated", "real"], ["real", "generated"], ["generated", "generated"],
    ["real", "real"]];
  return groups.flatMap(([truth, said]) => {
    const group = rows.filter(row => row.truth === truth && row.answer === said);
    const wide = group.length && byId("stage").firstChild.naturalWidth
      > 1.5 * byId("stage").firstChild.naturalHeight;
    const gallery = element("div", "", `gallery ${wide ? "wide" : ""}`);
    if (truth !== said) gallery.classList.add("wrong");
    gallery.append(...group.map(figure));
    const mark = truth === said ? "✓" : "✗";
    const title = `${truth === "real" ? "Real" : "Generated"} images called ${said}: ${group.length}`;
    return [element("h3", `${mark} ${title}`), gallery];
  });
}

function figure(row) {
  const found = element("figure");
  const alt = `Image ${row.position}, ${row.truth}, called ${row.answer}`;
  const caption = element("figcaption");
  caption.append(element("b", String(row.position)), ` ${row.image}`);
  if (row.class) caption.append(element("br"), row.class);
  const unsure = row.sure === "yes" ? "" : ", not sure";
  caption.append(element("br"), `${(row.response_ms / 1000).toFixed(1)} s${unsure}`);
  found.append(picture(row.position - 1, alt), caption);
  return found;
}

function download() {
  const lines = [quiz.columns, ...played().map(row => quiz.columns.map(name => row[name]))];
  const text = lines.map(line => `${line.map(csvCell).join(",")}\r\n`).join("");
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  const moment = new Date().toISOString().replace(/[-:]|\..*/g, "");
  link.download = `quiz-${quiz.facts.quiz}-${moment}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// As tables.py writes it: a text that a spreadsheet would compute gets an apostrophe in front.
function csvCell(value) {
  if (typeof value !== "string") return String(value);
  const guarded = value && quiz.guarded.includes(value[0]) ? `'${value}` : value;
  return /[",\r\n]/.test(guarded) ? `"${guarded.replaceAll('"', '""')}"` : guarded;
}

function picture(index, alt) {
  const image = new Image();
  image.onload = () => image.classList.toggle("pixels", image.naturalWidth <= SMALL);
  image.alt = alt;
  image.src = quiz.images[index];
  return image;
}

function tableRow(heading, ...cells) {
  const row = element("tr"), head = element("th", heading);
  head.scope = "row";
  row.append(head, ...cells.map(cell => element("td", String(cell), "n")));
  return row;
}

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function byId(id) {
  return document.getElementById(id);
}

function isRight(row) {
  return row.correct === "yes";
}

function ofThese(some, all) {
  return `${some.length} of ${all.length}`;
}

// The unit stands once.
function interval(low, high, shown) {
  return `${shown(low).replace(" %", "")} to ${shown(high)}`;
}

function percent(value) {
  return `${(100 * value).toFixed(1)} %`;
}

function decimal(value) {
  return value.toFixed(2).replace("-", "−");
}
