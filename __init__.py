"""SANA for ComfyUI: the pack's entry. `sana_core` is the models, `nodes` what ComfyUI sees of them."""

if __package__:  # not when a test runner imports the folder as if it were a module
    from pathlib import Path

    from .nodes import comfy_entrypoint
    from .nodes.bridge import folder_name, template_order
    from .nodes.bridge.registration import other_copy

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
    WEB_DIRECTORY = "./js"
    if other_copy():  # the editor accepts each script once
        WEB_DIRECTORY = None
    folder_name.serve(Path(__file__).parent)
    template_order.sort_templates(Path(__file__).parent.name)
