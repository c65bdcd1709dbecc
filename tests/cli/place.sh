#!/bin/bash
# Placement from the command line: other machines, policies, pins, nodes, explanations.
. "$(dirname "$0")/lib"

big='numa:8(memory=16GB) core:16 pu:2'
snc='package:2 numa:2(memory=8GB) l3:2 core:4 pu:2'
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
	grep -qE "$pattern" "$file" && case $file in out) [ $status = 0 ] ;; err) [ $status = 2 ] ;; esac
}
log=err

check "another machine" says out '96 vCPUs on 96 PUs, 64G' --topology "$big" --cpus 96 --memory 64G
check "takes six nodes" says out 'guest node 5: .* host node' --topology "$big" --cpus 96 --memory 64G
check "and no more" bash -c '! grep -q "guest node 6" out'
check "explained" says out '^  chosen +nearest nodes, a core each .*10.000, smt 0' \
	--topology "$big" --cpus 96 --memory 64G --explain
check "with what was rejected" grep -q '^  rejected  nearest nodes, SMT siblings' out
check "compact" says out '64 vCPUs on 64 PUs' --topology "$big" --cpus 64 --policy compact
check "on two nodes" bash -c 'grep -q "guest node 1" out && ! grep -q "guest node 2" out'
check "isolate has its limits" says err 'isolate: 129 vCPUs need as many idle cores, have 128' \
	--topology "$big" --cpus 129 --policy isolate
check "pins" says out 'vCPU 2 on PU 40:' --topology "$big" --cpus 3 --pin 0-1:node0 --pin 2:40
check "pins by hwloc set" says out 'vCPU 0 on PU 33:' --topology "$big" --pin 0:0x2,0x0
check "pins that name nothing" says err 'node9.*alcazar topology' --topology "$big" --pin 0:node9
check "pins that are none" says err 'VCPUS:WHERE' --pin 0:moon
check "given nodes" says out 'guest node 0: 2G on host node 3' --topology "$snc" \
	--node cpus=0-1,memory=2G,host-node=3 --node cpus=2-9,memory=1G
check "nodes in order only" says err 'begin with 2' --node cpus=0-1,memory=1M --node cpus=3,memory=1M
check "nodes that do not exist" says err 'no node 8' --topology "$snc" \
	--node cpus=0,memory=1G,host-node=8
check "pages that nobody reserved" says err 'nr_hugepages' --topology "$snc" --pages 1G
check "a guest topology" says out '8 vCPUs' --cpus 8 --guest-topology sockets=2,cores=2,threads=2
check "one that cannot be" says err 'make 4' --cpus 8 --guest-topology sockets=2,cores=3
check "another machine is not run on" bash -c \
	'! "$0" run --kernel hi --topology "$1" 2>err && grep -q "say --dry-run" err' "$alcazar" "$snc"
check "exclusive" says err 'exclusive: 17 vCPUs' --topology 'numa:2 core:8 pu:1' --cpus 17 --exclusive
check "JSON" says out '"host_node"' --topology "$snc" --cpus 4 --json
check "has a cost" grep -q '"access": 10.0' out
check "and alternatives" grep -q '"alternatives"' out
export XDG_STATE_HOME=$work/state
check "measuring" bash -c '"$0" topology --measure >out 2>err' "$alcazar"
check "is kept" bash -c '"$0" topology | grep -q "latency from CPUs"' "$alcazar"
echo '{"machine": 1' >state/alcazar/memory.json
check "a spoilt file is not read" bash -c '! "$0" topology | grep -q "latency"' "$alcazar"
finish
