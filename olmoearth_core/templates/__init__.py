"""Templates: what `olmoearth init` writes into a new project folder, one folder a template.

In their files PROJECT_NAME stands for the name of the new project.
"""

from olmoearth_core.templates.fill import Answers
from olmoearth_core.templates.template import Template, find_template, read_template, template_names, templates
from olmoearth_core.templates.write import write_template

__all__ = [
    "Answers",
    "Template",
    "find_template",
    "read_template",
    "template_names",
    "templates",
    "write_template",
]
