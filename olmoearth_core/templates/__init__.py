"""Templates: what `olmoearth init` writes into a new project folder, one folder a template.

In their files PROJECT_NAME stands for the name of the new project.
"""

from olmoearth_core.templates.write import template_names, write_template

__all__ = ["template_names", "write_template"]
