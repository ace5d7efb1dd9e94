"""How soon a figure is there: a measurement to read rather than a check, as machines differ."""

import os
import statistics

from reader import each_figure

from minireformer.course import explore

REPEATS = 5
WATCH = """
performance.mark("script");
new MutationObserver((_, observer) => {
  if (!document.querySelector(".explorable svg")) return;
  observer.disconnect();
  performance.mark("drawn");
  requestAnimationFrame(() => {  // of the frame with the drawing; a message comes after it
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => performance.mark("painted");
    port2.postMessage(0);
  });
}).observe(document, { childList: true, subtree: true });
"""
MARKS = "['script', 'drawn', 'painted'].map((name) => performance.getEntriesByName(name)[0].startTime)"


def first_paint(chromium, name):
    """Milliseconds, in a new page: to the drawing and to its frame, and what the page's thread has worked till then."""
    page = chromium.new_page()
    before, script = explore.explore(name).html.rsplit("<script>", 1)
    try:
        page.goto("about:blank")
        developer = page.context.new_cdp_session(page)
        developer.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.set_content(f"<!doctype html>{before}<script>{WATCH}</script><script>{script}")
        page.wait_for_function("performance.getEntriesByName('painted').length")
        script, drawn, painted = page.evaluate(MARKS)
        metrics = {each["name"]: each["value"] for each in developer.send("Performance.getMetrics")["metrics"]}
        return drawn - script, painted - script, 1000 * metrics["TaskDuration"]
    finally:
        page.close()


def load():
    """How busy the machine is: times on a busy one say little, what the thread has worked says more."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else "load unknown"


@each_figure
def test_a_figure_is_drawn_and_then_painted(chromium, name, capsys):
    drawn, painted, work = zip(*(first_paint(chromium, name) for _ in range(REPEATS)))
    assert all(0 < first < second for first, second in zip(drawn, painted))
    figures = [f"{min(times):.0f} (median {statistics.median(times):.0f})" for times in (drawn, painted, work)]
    with capsys.disabled():
        print(f"\n{name}: drawn after {figures[0]} ms, painted {figures[1]} ms, CPU {figures[2]} ms; {load()}")
