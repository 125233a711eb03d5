"""Measures: COCO's AP, VOC's mAP^r, recall of proposals, and how they are reported."""
