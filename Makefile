# The environment is the active one: pip install -e '.[dev]'
.PHONY: check test smoke docs

check:  ## lint, format, types, documentation
	.ci/check

test:  ## what CI runs, some minutes
	pytest

smoke:  ## a run of half a minute, from training to its audit
	rm -rf build/smoke
	python train_gan.py --out build/smoke --device cpu train.steps=20 eval.every=20 'eval.metrics=[fd_digits1k_test, modes1k]'
	python -m gan.sample build/smoke --out build/smoke/grid.png
	python -m gan.audit build/smoke

docs:  ## the site, in build/site
	python -m mkdocs build --strict
