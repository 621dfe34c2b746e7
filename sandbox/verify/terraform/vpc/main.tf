# A network as one has it on AWS: public and private subnets, the way out of
# each, and who may come in.
terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
  }

  backend "s3" {
    key = "vpc.tfstate"
  }
}

provider "aws" {}

module "vpc" {
  source = "./modules/vpc"

  name               = "sandbox-verify"
  cidr               = "10.90.0.0/16"
  availability_zones = ["us-east-1a", "us-east-1b"]
}

resource "aws_security_group" "web" {
  name   = "sandbox-verify-web"
  vpc_id = module.vpc.id

  ingress {
    from_port   = 80
    to_port     = 80
    protocol    = "tcp"
    cidr_blocks = ["0.0.0.0/0"]
  }

  egress {
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

output "vpc" {
  value = module.vpc.id
}
