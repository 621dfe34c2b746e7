# A state to keep and to lock. It needs no provider but the one that is part of
# tofu, so that it works where no registry of providers is in reach.
terraform {
  backend "s3" {
    key = "terraform.tfstate"
  }
}

# For how many tenths of a second an apply keeps the lock. It says in the file
# `held` that it has it, and lets go earlier when there is a file `release`.
variable "hold" {
  default = 0
}

resource "terraform_data" "proof" {
  input = "sandbox verify"

  provisioner "local-exec" {
    command = "[ ${var.hold} = 0 ] || { touch held; for i in $(seq ${var.hold}); do [ -e release ] || sleep 0.1; done; }"
  }
}
