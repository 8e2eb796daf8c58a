"""What is in a data set and what is wrong with it, before anything is trained on it (``imgcls data``)."""

from imgcls.data.inspection.inspect import Inspection, inspect_source, without_source
from imgcls.data.inspection.problem import Problem

__all__ = ["Inspection", "Problem", "inspect_source", "without_source"]
