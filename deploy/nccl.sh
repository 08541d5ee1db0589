# shellcheck shell=bash
# NCCL between A800 nodes; sourced by start-node.sh, so that all actors inherit it. What is set
# already stays. Check it on two nodes with nccl-tests' all_reduce_perf before the first study.

# The InfiniBand ports to use: all Mellanox ones. `ibstat` lists them; where one is an Ethernet port
# for storage, name the others, as mlx5_0,mlx5_1,mlx5_4,mlx5_5.
: "${NCCL_IB_HCA:=mlx5}"
# The interface over which ranks find each other (not their data): everything but containers and
# loopback. Name the management network where there are several.
: "${NCCL_SOCKET_IFNAME:=^docker,lo}"
# Retries of a lost packet: 2^22 * 4.096 us = 17 s instead of 1 s, so that a flap of a switch port
# ends no attempt.
: "${NCCL_IB_TIMEOUT:=22}"
: "${NCCL_IB_RETRY_CNT:=10}"
# An A800's NVLink has 400 GB/s instead of an A100's 600: inside a node NCCL finds the topology by
# itself. GPUDirect RDMA reads the GPU's memory from the network card where both hang below one
# PCIe switch; needs the module nvidia_peermem.
: "${NCCL_NET_GDR_LEVEL:=PXB}"
# A collective that fails ends the process instead of hanging; the run then restarts.
: "${TORCH_NCCL_ASYNC_ERROR_HANDLING:=1}"
export NCCL_IB_HCA NCCL_SOCKET_IFNAME NCCL_IB_TIMEOUT NCCL_IB_RETRY_CNT NCCL_NET_GDR_LEVEL
export TORCH_NCCL_ASYNC_ERROR_HANDLING
