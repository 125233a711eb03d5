"""Measures: COCO's AP, VOC's mAP^r, and how they are reported."""

from instancefcn.evaluation.run import evaluate

__all__ = ["evaluate"]
