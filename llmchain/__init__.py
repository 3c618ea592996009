"""A notebook-first, reproducible course and workbench for the whole chain of language models

Modules:

- `llmchain.workbench.apidoc`: API pages as Markdown, read from the source of a module.
- `llmchain.workbench.bench`: Side-by-side benchmarks: ours and its peers in turn, same input, ratios of medians with their spread.
- `llmchain.workbench.catalog`: The data catalogue: where each set or weight comes from, its licence, and its hash.
- `llmchain.workbench.checks`: What fails the build of the site: figures that are not those of the run, and dead links.
- `llmchain.workbench.cluster`: Chapters as tasks of Ray: `llmchain run --on ray`, or `--on ray://HEAD:10001` for a cluster that is there.
- `llmchain.workbench.contract`: What a notebook declares: its place in the chain, its parameters, and the rules for their values.
- `llmchain.workbench.diagram`: Mermaid flowcharts as static SVG, so that a page needs neither a browser nor a request.
- `llmchain.workbench.outputs`: What a reader sees of the outputs of a cell.
- `llmchain.workbench.report`: The report of a run, and of the difference of two: pages that carry all they show with them.
- `llmchain.workbench.runner`: Runs chapters through Papermill in worker processes, in the order of their artifacts.
- `llmchain.workbench.site`: The built-in preview of the site: the staged notebooks as pages, without Quarto.
- `llmchain.workbench.store`: Artifacts by name and content: written aside, hashed, then renamed into place.
- `llmchain.workbench.tracking`: Curves, parameters and metrics of a chapter for Weights & Biases, where WANDB_PROJECT is set.
- `llmchain.workbench.warm`: Kernels that start warm: forked from a server that has imported what the chapters import."""

__version__ = "0.1.0"
