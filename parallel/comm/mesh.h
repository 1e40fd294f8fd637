// The mesh of ranks: which rank shares what with whom. All ranks share the dense parameters. Expert-parallel groups are
// ep consecutive ranks; rank r holds the experts of expert rank r % ep. Ranks with equal r % ep are replicas of the same
// experts. Context groups are cp consecutive ranks, whatever ep is: they train on the same rows of a batch, and context
// rank r % cp takes the r % cp-th part of every row's tokens.
#pragma once

#include <functional>
#include <memory>

#include "parallel/base/config.h"
#include "parallel/comm/communicator.h"

namespace cadre::comm {

struct MeshConfig {
  int ep = 1;  // expert degree; divides the number of ranks
  int cp = 1;  // context degree; divides the number of ranks
  // What is sharded over the ranks that share it: 1 optimizer states and masters, 2 gradients too, 3 parameters too.
  int zero = 1;
  // A collective that takes longer ends the run: a rank hangs or was lost.
  double timeout_s = 600;
};
MeshConfig read_mesh(base::Section section);

class PeerMemory;

// Makes the communicators of one transport.
class World {
 public:
  virtual ~World() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int local_size() const = 0;  // ranks on this host
  virtual int local_rank() const = 0;  // from 0 among them
  // A communicator of the ranks that have this one's color, a number from 0 on below size(), ordered by world rank.
  // Collective over the world, with the same colors on all ranks.
  using Colors = std::function<int(int rank)>;
  virtual std::unique_ptr<Communicator> split(const Colors& color_of, const std::string& name) = 0;
  std::unique_ptr<Communicator> split(int, const std::string&) = delete;  // 0 would be an empty function
  std::unique_ptr<Communicator> everyone(const std::string& name) {
    return split([](int) { return 0; }, name);
  }
  // Ends all ranks at once with this exit code. Does not return in a real job.
  virtual void abort(int exit_code) = 0;
};

// MPI_COMM_WORLD when started by mpirun or srun; otherwise one rank, without MPI being initialised. With CADRE_MASTER
// (host:port of rank 0, or file:PATH on a disk that all share) ranks meet over TCP and need no MPI: CADRE_RANK and
// CADRE_RANKS, or Slurm's SLURM_PROCID and SLURM_STEP_NUM_TASKS, say who they are.
std::unique_ptr<World> make_world(int* argc, char*** argv);

// num_ranks threads of this process, each with a World of its own; returns when all ended. The first
// exception (lowest rank) is rethrown after the others were released from their collectives.
void run_threads(int num_ranks, const std::function<void(World&)>& body);

class Mesh {
 public:
  Mesh(World& world, const MeshConfig& config);  // communicators are made in one fixed order
  ~Mesh();
  const MeshConfig& config() const { return config_; }
  Communicator& data() const { return *data_; }          // all ranks
  Communicator& expert() const { return *expert_; }      // the ep ranks that together hold all experts
  Communicator& replicas() const { return *replicas_; }  // ranks that hold the same experts
  Communicator& context() const { return *context_; }    // the cp ranks that share rows
  World& world() const { return world_; }
  // Which rows of a batch: of row_ranks() context groups this is in the row_rank()-th.
  int row_rank() const { return data_->rank() / config_.cp; }
  int row_ranks() const { return data_->size() / config_.cp; }

  // Makes communicators for the memory of this queue's device, one an axis; for the CPU's nothing. Collective over
  // the world. Throws Error(kUsage) when this build has none for the device, or for context groups on GPUs.
  void connect(device::Queue& queue);
  // The same groups for tensors: where connect() made communicators those, else the ones above. In rank order, as
  // those; both may be used at a time, each in one order on all ranks.
  Communicator& data_tensors() const { return device_data_ ? *device_data_ : *data_; }
  Communicator& expert_tensors() const { return device_expert_ ? *device_expert_ : *expert_; }
  Communicator& replica_tensors() const {
    if (device_data_ && config_.ep == 1)
      return *device_data_;  // the same ranks: one set of channels and streams
    return device_replicas_ ? *device_replicas_ : *replicas_;
  }
  Communicator& context_tensors() const { return device_context_ ? *device_context_ : *context_; }
  // Memory that the ranks of the expert group read from each other (peer_memory.h).
  PeerMemory& expert_peers() const { return *expert_peers_; }
  // Of all of them; see Communicator::set_imitation.
  void set_tensor_imitation(bool on);

 private:
  World& world_;  // borrowed; outlives the mesh
  MeshConfig config_;
  std::unique_ptr<Communicator> data_, expert_, replicas_, context_;
  std::unique_ptr<Communicator> device_data_, device_expert_, device_replicas_, device_context_;
  std::unique_ptr<PeerMemory> expert_peers_;  // of expert_
};

}  // namespace cadre::comm
