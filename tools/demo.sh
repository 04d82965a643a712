#!/usr/bin/env bash
# The project's main job in one command: pretrain on handwritten digits, let the sensor drift, adapt by every learning rule, and end with
# a table and a plot of accuracy and cost. Results in runs/digits; run again to resume or to look at the table at once.
set -euo pipefail
. "$(dirname "$0")/setup.sh" plots
lightning-fwd compare -c recipes/compare_digits_drift.yaml --out "${1:-runs/digits}"
