#!/bin/bash
# Guest memory from the command line: pages, policies, nodes of CPUs or memory only, what
# is short, populating.
. "$(dirname "$0")/lib"

two='numa:2(memory=16GB) core:4 pu:1'
plan()
{
	"$alcazar" run --dry-run "$@" >out 2>err
}
says() # FILE PATTERN FLAGS...: planned, and FILE says so
{
	local file=$1 pattern=$2
	shift 2
	plan "$@"
	local status=$?
	grep -qE -- "$pattern" "$file" && case $file in out) [ $status = 0 ] ;; err) [ $status = 2 ] ;; esac
}
log=err

# --- pages ---------------------------------------------------------------------------

check "base pages" says out 'in pages of 4K' --pages 4K
check "pages that nobody makes" says err 'choose one of 4K, thp, 2M, 1G' --pages 3M
check "of a node, too" says err '--node pages=huge: choose one' --node cpus=0,memory=1G,pages=huge
free=$(cat /sys/devices/system/node/node*/hugepages/hugepages-1048576kB/free_hugepages 2>/dev/null |
	awk '{ sum += $1 } END { print sum }')
if [ "${free:-0}" = 0 ] && [ -d /sys/kernel/mm/hugepages/hugepages-1048576kB ]; then
	check "too few reserved: node, need, found, remedy" says err \
		'guest node 0: 2 pages of 1G needed on host node 0.*, 0 free: echo 2 >/sys/devices/' \
		--pages 1G --memory 2G
	check "of a node, too: what is reserved already counts" says err \
		'guest node 0: 1 pages of 1G needed on host node 0, 0 free: echo 1 >' \
		--node cpus=0,memory=1G,pages=1G,host-node=0
	check "and nothing starts" bash -c '! "$0" run --kernel hi --pages 1G 2>err' "$alcazar"
fi
check "not whole pages" says err 'whole pages' --topology "$two" --pages 1G --memory 1536M

# --- policies ------------------------------------------------------------------------

check "bound memory has to fit" says err '20480 MiB needed' --topology "$two" --nodes 1 --memory 20G
check "preferred memory goes on" says out '15G.*host node 0, 4.*on host node 1|, .* on host node 1' \
	--topology "$two" --cpus 2 --nodes 1 --memory 20G --memory-policy preferred
check "interleaved memory is shared out" says out '10G, 5G on host node 0, 5G on host node 1' \
	--topology "$two" --cpus 8 --memory 10G --memory-policy interleave
check "over nodes that were asked for" says out '1G on host node 0, 1G on host node 1' \
	--topology "$two" --node cpus=0,memory=2G,host-node=0-1 --memory-policy weighted
check "which is not for bound memory" says err 'for --memory-policy interleave' \
	--topology "$two" --node cpus=0,memory=2G,host-node=0+1
check "policies that are none" says err 'choose one of bind, preferred' --memory-policy best
check "JSON" says out '"memory_policy": "interleave"' --topology "$two" --memory-policy interleave --json
check "has the shares" grep -q '"weight": 1' out

# --- nodes ---------------------------------------------------------------------------

check "memory only" says out 'guest node 1: 4G on host node 1' --topology "$two" \
	--node cpus=0-3,memory=2G,host-node=0 --node memory=4G,host-node=1
check "CPUs only" says out 'guest node 0: no memory' --topology "$two" \
	--node cpus=0-1 --node cpus=2-3,memory=2G
check "neither" says err '.' --topology "$two" --node host-node=1
cat >nodes.yaml <<'YAML'
memory-policy: bind
nodes:
  - cpus: 0-3
    memory: 2G
    host-node: 1
  - { memory: 1G, host-node: 0 }
YAML
check "from a file" says out 'guest node 0: 2G on host node 1' --topology "$two" --config nodes.yaml
check "all of them" grep -q 'guest node 1: 1G on host node 0' out
check "flags override" says out 'guest node 0: 64M' --topology "$two" --config nodes.yaml \
	--node cpus=0,memory=64M
printf 'nodes: 2\ncpus: 2\n' >count.yaml
check "nodes may be counted as well" says out 'guest node 1' --topology "$two" --config count.yaml
while IFS='|' read -r pattern text; do
	printf "$text" >bad.yaml
	check "$pattern" says err "bad.yaml:$pattern" --topology "$two" --config bad.yaml
done <<'TABLE'
3: node: frob: no such key: cpus memory host-node pages|nodes:\n  - cpus: 0\n    frob: 1\n
3: node: cpus: is there already|nodes:\n  - cpus: 0\n    cpus: 1\n
2: node: memory: one short value|nodes:\n  - memory: [1G]\n
2: node: memory: one short value|nodes:\n  - memory: "1G,pages=2M"\n
2: node: a list of mappings|nodes:\n  - 3\n
3: node: is there already, on line 1|nodes:\n  - cpus: 0\nnode:\n  - cpus: 0\n
1: node: a list of up to 256|node: 3\n
1: nodes: one value|nodes: {cpus: 3}\n
TABLE

# --- populating ------------------------------------------------------------------------

run()
{
	timeout 100 "$alcazar" run --kernel hi --console none --engine soft "$@" >out 2>err </dev/null
}
populates()
{
	run --memory 64M --cpus 2 "$@"
	[ $? = 1 ] && grep -q '64M of memory populated by' err
}
check "populated, and says how fast" populates --prefault
check "all of it where it belongs" grep -qE 'GiB/s(, 100.00 %|$)' err
check "in base pages" populates --prefault --pages 4K
check "spread" populates --prefault --memory-policy interleave
check "not unasked" bash -c '! "$0" run --kernel hi --console none --memory 64M 2>&1 | grep -q populated' \
	"$alcazar"
check "counted in JSON" bash -c '"$0" run --quiet --kernel hi --memory 64M --prefault --console none \
	--json | grep -q "\"populated\":{\"bytes\":67108864,"' "$alcazar"
run --memory 64M --node cpus=0 --node memory=64M --prefault --memory 64M
check "a guest whose first node has no memory" [ $? = 1 ]
"$alcazar" run --kernel idle --console none --memory 2G --prefault --pages 4K >out 2>err &
pid=$!
sleep 0.3
kill -INT $pid
wait $pid
check "interrupted while it populates" [ $? = 8 ]
finish
