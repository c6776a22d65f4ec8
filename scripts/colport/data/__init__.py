"""Datasets: published ones and folders of one's own, their pages, PDFs and judgements."""
