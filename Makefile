# Uses the active environment: pip install -e '.[dev]'
.PHONY: check test smoke docs gpu

check:  ## lint, format, types, imports, documentation, a GPU without hardware
	.ci/check

test:  ## all fast tests, a few minutes
	pytest

smoke:  ## train, sample and audit a tiny run, half a minute
	rm -rf build/smoke
	python train_gan.py --out build/smoke --device cpu train.steps=20 eval.every=20 'eval.metrics=[fd_digits1k_test, modes1k]'
	python -m gan.sample build/smoke --out build/smoke/grid.png
	python -m gan.audit build/smoke

docs:  ## build the site in build/site
	python -m mkdocs build --strict

gpu:  ## settle what only a GPU can, at most 8 minutes
	python benchmarks/gpu_check.py
