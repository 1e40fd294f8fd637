// A rank that fails in the way its argument says, for fault_test.cc.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <string>
#include <thread>

#include "parallel/comm/mesh.h"

int main(int, char** argv) {
  const std::string way = argv[1];
  const auto world = cadre::comm::make_world(nullptr, nullptr);
  const auto comm = world->everyone("data");
  comm->barrier("all are here");
  if (world->rank() == 1) {
    if (way == "abort") world->abort(6);
    if (way == "kill") raise(SIGKILL);
    if (way == "hang") std::this_thread::sleep_for(std::chrono::minutes(1));
  }
  comm->set_timeout(std::chrono::milliseconds(way == "hang" ? 500 : 60000));
  try {
    comm->barrier("gradients of step 7");
  } catch (const cadre::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    world->abort(int(error.code()));
  }
  return 0;
}
