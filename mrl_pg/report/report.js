// Figures of the mark that is pointed at, or reached with the arrow keys. Without this script browsers show the titles.
"use strict";
for (const svg of document.querySelectorAll(".plot > svg")) {
  const tip = svg.parentNode.querySelector(".tip");
  const marks = [...svg.querySelectorAll(".mark")].map((node) => {
    const title = node.querySelector("title");
    const text = title.textContent;
    title.remove(); // or the browser shows it besides
    return { node, text };
  });
  // Along the axis, so that the arrow keys go from left to right.
  const place = ({ node }) => [node.x.baseVal.value, node.y.baseVal.value];
  const ordered = [...marks].sort((a, b) => place(a)[0] - place(b)[0] || place(a)[1] - place(b)[1]);
  let current = -1;

  const hide = () => {
    tip.hidden = true;
    for (const { node } of marks) node.classList.remove("on");
  };
  const show = (mark) => {
    hide();
    const [x, y] = place(mark);
    // Marks that lie on each other are told together.
    const there = marks.filter((other) => Math.hypot(place(other)[0] - x, place(other)[1] - y) < 5);
    for (const { node } of there) node.classList.add("on");
    const texts = [...new Set([mark, ...there].map(({ text }) => text))];
    tip.textContent = texts.slice(0, 4).join("\n\n");
    tip.hidden = false;
    const plot = svg.getBoundingClientRect();
    const room = document.documentElement.clientWidth;
    const left = Math.min(plot.left + x + 14, room - tip.offsetWidth - 6);
    tip.style.left = `${Math.max(left, 6) - plot.left}px`;
    const above = y - tip.offsetHeight - 12;
    tip.style.top = `${plot.top + above > 0 ? above : y + 14}px`;
  };

  const nearest = (event) => {
    const plot = svg.getBoundingClientRect();
    let found = null;
    let least = 40;
    for (const mark of marks) {
      const [x, y] = place(mark);
      const far = Math.hypot(event.clientX - plot.left - x, event.clientY - plot.top - y);
      if (far < least) [found, least] = [mark, far];
    }
    if (found) show(found);
    else hide();
  };
  svg.addEventListener("pointermove", nearest);
  svg.addEventListener("pointerdown", nearest);
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step || !ordered.length) return;
    event.preventDefault();
    current = (current + step + ordered.length) % ordered.length;
    show(ordered[current]);
  });
}
