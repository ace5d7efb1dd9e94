"""A reader of the explorables, who tries every control."""

import pytest

from minireformer.course import explore

FIGURES = [name for name in explore.STILLS if (explore.FOLDER / f"{name}.js").exists()]
each_figure = pytest.mark.parametrize("name", FIGURES)
SEEN = """(element) => {
    const copy = element.cloneNode(true);
    copy.querySelector(".ex-spoken").remove(); // it follows what is shown, some time later
    return copy.innerHTML;
}"""


def try_every_control(page, figure):
    """Use each control once, with the keyboard; each must change what the figure shows or says."""

    def changes(name, use):
        element = figure.element_handle()
        before = element.evaluate(SEEN)
        use()
        frame = element.owner_frame()
        frame.wait_for_function(f"([element, before]) => ({SEEN})(element) !== before", arg=[element, before])
        tried.append(name)

    tried = []
    for button in figure.get_by_role("button").all()[:-1]:
        if button.is_visible() and button.is_enabled():
            changes(button.text_content(), lambda button=button: button.press("Enter"))
    for box in figure.get_by_role("checkbox").all():
        changes("checkbox", lambda box=box: box.press("Space"))
    for chosen in figure.get_by_role("combobox").all():
        for label in chosen.locator("option:not(:checked)").all_inner_texts():
            changes(label, lambda chosen=chosen, label=label: chosen.select_option(label=label))
    for slider in figure.get_by_role("slider").all():
        for key in ("ArrowRight", "ArrowLeft"):
            changes(f"slider, {key}", lambda slider=slider, key=key: slider.press(key))
    for button in figure.get_by_role("button").all():
        if button.is_visible() and button.is_enabled():
            button.press("Enter")
            tried.append(button.text_content())
    return tried
