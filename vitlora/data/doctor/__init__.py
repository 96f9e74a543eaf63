"""The folder doctor: what is wrong with an image folder, before it costs a training run."""

from vitlora.data.doctor.examination import by_severity, examine
from vitlora.data.doctor.finding import Finding
from vitlora.data.doctor.survey import Survey, survey

__all__ = ["Finding", "Survey", "by_severity", "examine", "survey"]
