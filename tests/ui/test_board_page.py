"""The board's page in a real browser, over a real plan editor, without Jupyter between them: pointer, keys, touch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_lab import FakeLab

pytest.importorskip("anywidget")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from esen_lab.planner.editor import LastRun, Offered, PlanEditor
from esen_lab.ui.widgets.board import Board

sys.path.append(str(Path(__file__).parents[2] / "tools"))
from real_lab import BROWSERS, browser_path, chromium

NO_BROWSER = f"no browser here: none of {', '.join(BROWSERS)} on PATH"
pytestmark = pytest.mark.skipif(browser_path() is None, reason=NO_BROWSER)

# A model as anywidget's interface has it, and nothing else of a notebook.
PAGE = """<html><body><div id="one" style="width: 100%%"></div><script type="module">
const state = %s;
const heard = {};
window.orders = [];
const hidden = { get: () => false, send: (order) => window.orders.push(order) };
window.model = {
  get: (name) => state[name],
  on: (name, listener) => (heard[name] = listener),
  off: (name) => delete heard[name],
  widget_manager: { get_model: async () => hidden },
};
window.put = (name, value) => { state[name] = value; heard[`change:${name}`]?.(); };
const blob = new Blob([%s], { type: "text/javascript" });
const module = (await import(URL.createObjectURL(blob))).default;
window.close_board = module.render({ model: window.model, el: document.getElementById("one") });
window.ready = true;
</script></body></html>"""


class Shown:
    """A board in a page, and what passes between it and its kernel's side when the test says."""

    def __init__(self, page: Any, board: Board) -> None:
        self.page = page
        self.board = board
        page.goto("about:blank")  # a page that nothing was in
        state = {"models": board.models, "view": board.view, "commands": "IPY_MODEL_hidden"}
        page.set_content(f"<style>{board._css}</style>" + PAGE % (json.dumps(state), json.dumps(board._esm)))
        page.wait_for_function("window.ready")

    def exchange(self) -> list[dict[str, Any]]:
        """What the page has ordered reaches the kernel's side, and its state the page; returns the orders."""
        self.page.wait_for_timeout(20)  # the page sends when it has looked its commands up
        orders: list[dict[str, Any]] = self.page.evaluate("window.orders.splice(0)")
        for order in orders:
            self.board.commands.receive(order)
        self.board._acts.settle(60)
        for name in ("models", "view"):
            self.page.evaluate("([name, value]) => window.put(name, value)", [name, getattr(self.board, name)])
        return orders

    def middle(self, key: str) -> tuple[float, float]:
        return self.centre(self.page.locator(f'[data-key="{key}"]'))

    def centre(self, found: Any) -> tuple[float, float]:
        box = found.bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag(self, start: tuple[float, float], end: tuple[float, float], *, drop: bool = True) -> None:
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*end, steps=6)
        if drop:
            self.page.mouse.up()

    @property
    def text(self) -> str:
        return str(self.page.locator(".esen-board").inner_text())

    @property
    def tip(self) -> str:
        return str(self.page.locator(".tip").inner_text())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium("--disable-background-networking", "--disable-dev-shm-usage") as launched:
        yield launched


@pytest.fixture(scope="module")
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1200, "height": 800}, has_touch=True)
    made = context.new_page()
    made.set_default_timeout(60_000)
    yield made
    context.close()


@pytest.fixture
def lab() -> FakeLab:
    return FakeLab()


@pytest.fixture
def shown(page: Any, editor: PlanEditor) -> Iterator[Shown]:
    page.set_viewport_size({"width": 1200, "height": 800})
    board = Board(editor)
    yield Shown(page, board)
    page.evaluate("window.close_board()")
    board.close()


def test_a_sub_model_is_dragged_to_another_lane_and_predicted_on_the_way(shown: Shown, editor: PlanEditor) -> None:
    shown.drag(shown.middle("step slim"), shown.middle("step deep"), drop=False)
    assert shown.tip == "Predicted JCT 8.00 ms, as before; lane 2 limits."
    assert "lane 2 limits" in shown.page.locator(".figures").inner_text()
    assert editor.state.describe() == "2: wide + slim | 2: deep", "nothing is moved before the drop"
    shown.page.mouse.up()
    assert "lane 2 limits" in shown.text, "shown before the kernel has heard"
    assert [order["kind"] for order in shown.exchange()] == ["move"]
    assert editor.state.describe() == "2: wide | 2: deep + slim"
    assert "lane 2 limits" in shown.text


def test_in_the_free_space_it_gets_a_lane_of_its_own(shown: Shown, editor: PlanEditor) -> None:
    shown.drag(shown.middle("step slim"), shown.centre(shown.page.locator(".free")))
    shown.exchange()
    assert [lane.members for lane in editor.state.lanes] == [("wide",), ("slim",), ("deep",)]
    assert shown.page.locator(".lane").count() == 3


def test_a_forbidden_drop_says_why_at_its_place_and_sends_nothing(shown: Shown, editor: PlanEditor) -> None:
    shown.drag(shown.middle("step deep"), shown.centre(shown.page.locator(".free")), drop=False)
    assert shown.tip == "It has a lane of its own already."
    shown.page.mouse.up()
    assert "It has a lane of its own already." in shown.page.locator(".free").inner_text()
    assert shown.exchange() == []


def test_no_room_for_a_lane_is_said_before_the_kernel_is_asked(shown: Shown, editor: PlanEditor) -> None:
    editor.share({"wide": 1, "deep": 3}, pin=["deep"])
    shown.exchange()
    shown.page.locator('[data-key="step slim"]').focus()
    shown.page.keyboard.press("n")
    assert "3 pinned" in shown.page.locator(".free").inner_text()
    assert shown.exchange() == []


def test_a_border_is_dragged_and_the_share_is_one_step_of_undo(shown: Shown, editor: PlanEditor) -> None:
    x, y = shown.middle("border wide")
    shown.drag((x, y), (x, y + 60), drop=False)
    assert "Lane 1: 3 cores; predicted JCT 8.00 ms, lane 2 limits." in shown.tip
    shown.page.mouse.up()
    shown.exchange()
    assert [lane.units for lane in editor.state.lanes] == [3, 1]
    editor.undo()
    assert [lane.units for lane in editor.state.lanes] == [2, 2]


def test_a_border_goes_no_further_than_there_is_room(shown: Shown, editor: PlanEditor) -> None:
    x, y = shown.middle("border wide")
    shown.drag((x, y), (x, y + 600))
    shown.exchange()
    assert [lane.units for lane in editor.state.lanes] == [3, 1]


def test_a_pinned_lane_is_pinned_by_a_click_and_its_border_says_why_it_stays(shown: Shown, editor: PlanEditor) -> None:
    shown.page.locator('[data-key="head deep"]').click()
    shown.exchange()
    assert [lane.pinned for lane in editor.state.lanes] == [False, True]
    assert shown.page.locator('[data-key="head deep"]').get_attribute("aria-pressed") == "true"
    shown.page.locator('[data-key="border wide"]').focus()
    shown.page.keyboard.press("ArrowDown")
    assert "Lane 2 is pinned" in shown.page.locator(".lane").first.inner_text()
    assert shown.exchange() == []


def test_everything_goes_by_keys_and_the_focus_stays(shown: Shown, editor: PlanEditor) -> None:
    keys = shown.page.keyboard
    shown.page.locator('[data-key="step slim"]').focus()
    keys.press("ArrowDown")
    shown.exchange()
    assert editor.state.describe() == "2: wide | 2: deep + slim"
    assert shown.page.evaluate("document.activeElement.dataset.key") == "step slim"
    keys.press("ArrowDown")  # below the last lane: one of its own
    shown.exchange()
    assert len(editor.state.lanes) == 3
    keys.press("z")
    keys.press("z")
    shown.exchange()
    assert editor.state.describe() == "2: wide + slim | 2: deep"
    border = shown.page.locator('[data-key="border wide"]')
    assert border.get_attribute("role") == "separator", "of a slider ↑ would be more; this moves the border up"
    border.focus()
    keys.press("End")
    keys.press("ArrowUp")
    shown.exchange()
    assert [lane.units for lane in editor.state.lanes] == [2, 2]
    keys.press("Home")
    shown.exchange()
    assert [lane.units for lane in editor.state.lanes] == [1, 3]
    keys.press("p")
    shown.exchange()
    assert editor.state.lanes[0].pinned


def test_a_finger_drags_too(shown: Shown, editor: PlanEditor) -> None:
    (x1, y1), (x2, y2) = shown.middle("step slim"), shown.middle("step deep")
    session = shown.page.context.new_cdp_session(shown.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        places = [{"x": x, "y": y} for x, y in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    touch("touchStart", (x1, y1))
    for part in (0.25, 0.5, 0.75, 1.0):
        touch("touchMove", (x1 + part * (x2 - x1), y1 + part * (y2 - y1)))
    touch("touchEnd")
    shown.exchange()
    assert editor.state.describe() == "2: wide | 2: deep + slim"


def test_what_the_kernel_refuses_is_said_beside_it_and_the_draft_goes_back(shown: Shown, editor: PlanEditor) -> None:
    shown.page.locator('[data-key="step slim"]').focus()
    shown.page.keyboard.press("ArrowDown")
    editor.merge(1, 2)  # another view was faster
    editor.share(pin=[1])
    shown.exchange()
    assert shown.page.locator(".lane").count() == 1
    shown.page.evaluate("window.model.get('view').can_redo = true")
    shown.page.locator('[data-key="step wide"]').focus()
    shown.page.keyboard.press("Shift+Z")
    shown.exchange()
    assert "nothing to redo" in shown.text


def test_other_views_moves_are_followed_also_during_a_drag(shown: Shown, editor: PlanEditor) -> None:
    shown.drag(shown.middle("step slim"), shown.middle("step deep"), drop=False)
    editor.share({"deep": 1})
    shown.exchange()
    shown.page.mouse.up()
    shown.exchange()
    assert [lane.units for lane in editor.state.lanes] == [3, 1]
    assert editor.state.lanes[1].members == ("deep", "slim")


def test_a_drop_among_lanes_that_have_changed_meanwhile_moves_nothing_and_says_so(
    shown: Shown, editor: PlanEditor
) -> None:
    shown.drag(shown.middle("step slim"), shown.middle("step deep"), drop=False)
    editor.merge(1, 2)
    shown.exchange()
    shown.page.mouse.up()
    assert shown.exchange() == []
    assert "The lanes have changed meanwhile" in shown.text
    assert len(editor.state.lanes) == 1


def test_a_border_that_is_moved_again_by_keys_begins_where_others_have_left_it(
    shown: Shown, editor: PlanEditor
) -> None:
    def now() -> list[int]:
        return [lane.units for lane in editor.state.lanes]

    editor.split("slim")
    editor.share({"wide": 2, "slim": 1, "deep": 1})
    shown.exchange()
    border = shown.page.locator('[data-key="border wide"]')
    border.focus()
    shown.page.keyboard.press("ArrowUp")
    shown.exchange()
    assert now() == [1, 2, 1]
    editor.share({"wide": 1, "slim": 1, "deep": 2})
    shown.exchange()
    border.focus()
    shown.page.keyboard.press("ArrowDown")
    shown.exchange()
    assert now() == [1, 1, 2], "there is nothing to take below the border; what others moved stays"


def test_measured_times_lie_over_predicted_ones_and_a_late_lane_is_marked(
    shown: Shown, editor: PlanEditor, lab: FakeLab
) -> None:
    lanes = ((2, ("wide", "slim")), (2, ("deep",)))
    spans = (("wide", 0, 0.0001, 0.004), ("slim", 0, 0.004, 0.009), ("deep", 1, 0.0037, 0.009))
    lab.last_run = LastRun(jct_s=0.0095, lanes=lanes, spans=spans)
    editor.ran_anew(at_once=True)
    shown.exchange()
    assert shown.page.locator(".span").count() == 3
    assert "measured 5.00 ms" in shown.page.locator(".span").nth(1).get_attribute("title")
    assert shown.page.locator(".late").count() == 1
    assert "3.70 ms" in shown.page.locator(".late").get_attribute("title")
    editor.share({"deep": 1})
    shown.exchange()
    assert shown.page.locator(".span").count() == 0
    assert "the last run was of other lanes" in shown.text


def test_past_plans_and_points_of_the_front_are_taken_by_a_click(
    shown: Shown, editor: PlanEditor, lab: FakeLab
) -> None:
    editor.apply()
    editor.move("slim", "deep")
    editor.apply()
    members = (("deep",), ("deep", "wide"))
    lab.choices = tuple(
        Offered(number=at, members=names, jct_s=0.002 * (at + 1), accuracy=0.9 + at / 50, in_force=False)
        for at, names in enumerate(members)
    )
    shown.exchange()
    editor.ran_anew(at_once=True)
    shown.exchange()
    shown.page.get_by_text("2: wide + slim | 2: deep").click()
    shown.exchange()
    assert editor.state.describe() == "2: wide + slim | 2: deep"
    shown.page.get_by_label("92.0 % accurate in 4.00 ms: deep, wide").click()
    shown.exchange()
    assert lab.calls[-1] == ("take", 1)


@pytest.mark.parametrize("width", [600, 900, 1400])
def test_nothing_is_cut_off_nor_smaller_than_11_px(shown: Shown, width: int) -> None:
    shown.page.set_viewport_size({"width": width, "height": 800})
    found = shown.page.evaluate(
        """() => {
            const all = [...document.querySelectorAll(".esen-board *")];
            const says = (el) => [...el.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
            const small = (el) => parseFloat(getComputedStyle(el).fontSize) < 11;
            return {
                small: all.filter((el) => says(el) && small(el)).map((el) => el.className),
                wide: document.documentElement.scrollWidth > innerWidth,
            };
        }"""
    )
    assert found == {"small": [], "wide": False}


@pytest.mark.timing
def test_the_prediction_is_redrawn_within_50_ms_of_a_pointers_move(shown: Shown) -> None:
    shown.drag(shown.middle("step slim"), shown.middle("step deep"), drop=False)
    took_ms = shown.page.evaluate(
        """() => {
            const el = document.querySelector(".step.dragged");
            const box = el.getBoundingClientRect();
            const took = [];
            for (let k = 0; k < 40; k += 1) {
                const begun = performance.now();
                const [clientX, clientY] = [box.x + 20 + k, box.y + (k % 2 ? -150 : 20)];
                el.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY }));
                document.body.getBoundingClientRect();
                took.push(performance.now() - begun);
            }
            return took.sort((a, b) => a - b)[20];
        }"""
    )
    shown.page.mouse.up()
    print(f"from the pointer's move to the new prediction: {took_ms:.1f} ms")
    assert took_ms < 50
